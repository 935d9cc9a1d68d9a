"""A reader in a child process that may do no harm: an audit hook looks on, and its memory is limited."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dying import in_child

from eventful import cli

ROOM = 2**30
"""Memory that a file may take beside what the process had: 1 GiB (docs/security.md)."""

RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "pty.spawn")


class Pwn:
    """Touches a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.system, (f"touch {self.target}",)


def harmless(read: Callable[[], object], folder: Path, elsewhere: Path, said: str = "") -> None:
    """Reads in a child, which must end with one line or be refused nothing and do no harm."""
    before = sorted(path.name for path in elsewhere.iterdir())

    def watch() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        allowed = (
            str(folder),
            sys.prefix,
            sys.base_prefix,
            str(Path(cli.__file__).parents[1]),
            "/proc",
            "/sys",
            "/dev",
        )
        real = os.path.realpath

        def hook(event: str, args: tuple[Any, ...]) -> None:
            if event in RUNS:
                raise AssertionError(f"harm: {event} {args}")
            if event == "open" and isinstance(args[0], str | bytes):
                path = os.fsdecode(args[0])
                writes = isinstance(args[2], int) and bool(args[2] & (os.O_WRONLY | os.O_RDWR))
                if str(elsewhere) in path or (writes and not real(path).startswith(allowed)):
                    raise AssertionError(f"harm: open {path}")

        sys.addaudithook(hook)

    status, text = in_child(lambda: cli.run("command", lambda _: read(), []), watch)
    assert "harm" not in text and "Traceback" not in text, text
    assert status == 2 and text.count("\n") == 1 and said in text, (status, text)
    assert sorted(path.name for path in elsewhere.iterdir()) == before
