"""One run at a time in a folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from eventful.disk.full import written
from eventful.disk.replaced import clear_leftovers
from eventful.errors import UserError


@contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a folder for the time of the block, or of this process if it dies before.

    The lock is the system's, on `FOLDER/.lock`; who holds it is written beside it.

    Args:
        folder: Folder that the run writes to; created if it is not there.

    Raises:
        UserError: If another run is at work there, naming its process.
        OSError: If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(folder / ".lock"), folder / ".lock.owner"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{folder} is in use by another run{_named(owner)}: wait until it has ended, or choose another out folder"
        ) from None
    try:
        with written(owner):
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        clear_leftovers(folder)
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _named(owner: Path) -> str:
    try:
        return f" ({owner.read_text()})"
    except FileNotFoundError:
        # It has only just begun, or is about to end.
        return ""
