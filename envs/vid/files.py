"""Files that a data set must have: what is missing is named, with what it was wanted for."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from eventful.cli import one_line
from eventful.errors import UserError


def inside(name: str, where: str) -> str:
    """A name of a file or folder that a list holds, which may not lead out of the list's own folder.

    Args:
        name: The name, `/` included.
        where: Where it stands, for the message.

    Raises:
        UserError: If it does: absolute, by `..`, or with characters that no file has.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive or "\0" in name:
        raise UserError(f"{where}: {name!r} leads out of the folder of the data")
    return name


class Folder:
    """A folder whose files are listed once: a look at each of 200,000 would take minutes on a network.

    Args:
        path: The folder; it need not exist before a file of it is asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(entry.name for entry in self.path.iterdir()) if self.path.is_dir() else frozenset()

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return name in self._names

    def file(self, name: str, why: str) -> Path:
        """The path of a file.

        Args:
            name: Its name.
            why: What it is wanted for, for the message.

        Raises:
            UserError: If there is no such file.
        """
        if name not in self._names:
            where = "" if self.path.is_dir() else f" (there is no folder {self.path})"
            raise UserError(f"{self.path / name} is missing{where}: {why}")
        return self.path / name


def lines_of(path: Path, what: str) -> list[str]:
    """The lines of a text file.

    Args:
        path: The file.
        what: What it should hold, for the message.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        return path.read_text().splitlines()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: it should have {what}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from error


def json_of(path: Path, *keys: str) -> dict[str, Any]:
    """A JSON file whose content is an object with lists under some keys.

    Raises:
        UserError: If it cannot be read, or lacks a key.
    """
    text = "\n".join(lines_of(path, f"a JSON object with {', '.join(keys)}"))
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON: {one_line(error)}") from error
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{path} has no list {key!r}")
    return content
