"""What a command says while it works: messages and progress bars, which `--quiet` leaves out.

Results are printed, and warnings and errors go to stderr, whether a command is quiet or not. Nothing is coloured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


@contextmanager
def quiet(asked: bool = True) -> Iterator[None]:
    """Leaves messages and progress out in the `with` block, if it is asked for."""
    token = _quiet.set(asked)
    try:
        yield
    finally:
        _quiet.reset(token)


def say(message: str) -> None:
    """Prints how far the work has come, unless the command is to be quiet."""
    if not _quiet.get():
        print(message, flush=True)


def progress(items: Iterable[T] | None = None, what: str | None = None, shown: bool | None = None, **bar: Any) -> tqdm:
    """A progress bar on stderr.

    Args:
        items: What is worked through; None if the bar is updated by hand.
        what: Name of the work.
        shown: Whether it is shown; where stderr is a terminal if None. Never if the command is to be quiet.
        bar: Further arguments of `tqdm.tqdm`, such as `total` and `unit`.
    """
    hidden = True if _quiet.get() else (None if shown is None else not shown)
    return tqdm(items, what, disable=hidden, dynamic_ncols=True, **bar)
