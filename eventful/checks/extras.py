"""Libraries that only some of the work needs, in the package's extras, and looked for before that work begins."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import NamedTuple

from eventful.errors import UserError


class Library(NamedTuple):
    """A library of an extra.

    Attributes:
        module: Name by which it is imported.
        name: What it is called.
    """

    module: str
    name: str


LIBRARIES: Mapping[str, Library] = {
    "plot": Library("matplotlib", "matplotlib"),
    "preview": Library("pygame", "pygame-ce"),
    "hf": Library("transformers", "transformers"),
}
"""By extra."""


def is_installed(extra: str) -> bool:
    """Whether the library of an extra is there."""
    return find_spec(LIBRARIES[extra].module) is not None


def lacking(what: str, extra: str) -> str:
    """What to say where it is not.

    Args:
        what: What is asked for and needs the library.
        extra: Name of the extra.
    """
    return f"{what} needs {LIBRARIES[extra].name}: pip install 'eventful-policies[{extra}]'"


def require(what: str, extra: str) -> None:
    """Makes sure that the library of an extra is there.

    Args:
        what: What is asked for and needs the library.
        extra: Name of the extra.

    Raises:
        UserError: If it is not.
    """
    if not is_installed(extra):
        raise UserError(lacking(what, extra))
