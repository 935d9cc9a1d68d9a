"""Files and folders that are replaced whole: whoever looks, and whenever a process dies, finds the old or the new one.

A folder is written beside the old one and exchanged with it by `renameat2` where the system has it (Linux; most of its
file systems). Elsewhere the old one steps aside for a moment to a name by which `policies.load` finds it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from eventful.disk.full import written
from policies.checkpoint import set_aside

_TEMPORARY = ".tmp"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_NOT_OFFERED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file.

    Args:
        path: Path of the file, which may be there.
        write: Function that writes it to the path that it is given.

    Raises:
        UserError: If the disk takes no more, or the folder cannot be written.
    """
    with written(path, _kept(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several processes may replace one file.
        partial = path.with_name(f"{path.name}.{os.getpid()}{_TEMPORARY}")
        try:
            write(partial)
            _sync(partial)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Writes a text file, in UTF-8; raises as `replace_file` does."""
    replace_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def clear_leftovers(folder: Path) -> None:
    """Removes what processes that died left of files that they were about to replace; nobody else may be at work."""
    for path in folder.glob(f"*.*[0-9]{_TEMPORARY}"):
        path.unlink(missing_ok=True)


def replace_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Writes a folder of files.

    Args:
        folder: Path of the folder, which may be there.
        write: Function that makes it at the path that it is given.

    Raises:
        UserError: If the disk takes no more, or the folder cannot be written.
    """
    partial, aside = folder.with_name(f"{folder.name}.tmp"), set_aside(folder)
    shutil.rmtree(partial, ignore_errors=True)
    with written(folder, _kept(folder)):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(partial)
            for path in (*partial.iterdir(), partial):
                _sync(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    if folder.exists() and not _exchange(partial, folder):
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(folder, aside)
    if not folder.exists():
        os.rename(partial, folder)
    _sync(folder.parent)
    for old in (partial, aside):
        shutil.rmtree(old, ignore_errors=True)


def _kept(path: Path) -> str:
    return "what was there before is kept" if path.exists() else ""


def _exchange(one: Path, other: Path) -> bool:
    """Lets two paths change names in one step; False where the system or the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NOT_OFFERED:
        return False
    raise OSError(code, os.strerror(code), str(other))


def _sync(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
