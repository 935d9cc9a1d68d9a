"""A disk that takes no more: one line that says which file, and what is kept, whoever was writing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from eventful.errors import UserError

_TORCH = "PytorchStreamWriter|inline_container|unexpected pos|iostream"
"""What torch says when a file takes less than it is given, as a plain `RuntimeError`."""


@contextmanager
def written(path: Path, kept: str = "") -> Iterator[None]:
    """A stretch of code that writes a file.

    Args:
        path: Path of the file, for the message.
        kept: What is still there if that fails, for the message.

    Raises:
        UserError: If the file cannot be written, whatever the library behind it calls that.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise UserError(f"{path} cannot be written: {reason}{f'; {kept}' if kept else ''}") from error


def append(path: Path, text: str, at_once: bool = False) -> None:
    """Appends to a file, which is made if there is none.

    Args:
        path: Path of the file.
        text: What is added.
        at_once: Whether it is on disk when this returns, and not with the system.

    Raises:
        UserError: If it cannot be written.
    """
    with written(path, "what was in it before is kept"), path.open("a") as file:
        file.write(text)
        if at_once:
            file.flush()
            os.fsync(file.fileno())


def _reason(error: Exception) -> str | None:
    """In the system's words, as far as they are known; None for errors that have nothing to do with the disk."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, SafetensorError):
        found = re.search(r"I/O error: (.*?)(?: \(os error \d+\))?$", str(error))
        return found and found[1]
    return "the disk takes no more" if re.search(_TORCH, str(error)) else None
