"""Runs in a child process that is killed, or whose files cannot grow: at a chosen step of what it writes, or any time.

The children are forked by a server, a fresh process that has imported what they need and has a single thread: a child
of a test process, which has several, may wait for ever for a lock that one of the others held.
"""

from __future__ import annotations

import builtins
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cloudpickle
import torch

from eventful.disk import full, replaced

KILLED = -signal.SIGKILL

Run = Callable[[], object]

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        *("cloudpickle", "pytest", "timm", "matplotlib.pyplot", "torch._inductor.compile_fx"),
        *("envs.actions", "envs.vid", "envs.convert.__main__"),
        *("eventful.infer.command", "train.evaluate", "train.policy"),
    ]
)


def in_child(run: Run, before: Run = lambda: None, until: float | None = None) -> tuple[int, str]:
    """Runs a function in a child process, with the environment variables of this one.

    Args:
        run: Function that is run.
        before: What is done first in the child.
        until: Seconds after which the child is killed; None for an hour.

    Returns:
        The child's exit status (0, that of `SystemExit`, 1 after any other exception, or minus a signal), and what it
        wrote to stderr.
    """
    for name, module in list(sys.modules.items()):
        # Their names are made by pytest: the child could not import them.
        if name.startswith("tests."):
            cloudpickle.register_pickle_by_value(module)
    reading, writing = SERVER.Pipe(duplex=False)
    child = SERVER.Process(target=_ran, args=(cloudpickle.dumps((before, run)), dict(os.environ), writing))
    child.start()
    writing.close()
    killer = threading.Timer(3600 if until is None else until, child.kill)
    killer.start()
    with os.fdopen(os.dup(reading.fileno())) as said:
        text = said.read()
    # Its number is not given to another before it is waited for.
    killer.cancel()
    killer.join()
    child.join()
    return child.exitcode, text


def _ran(task: bytes, environment: dict[str, str], writing: Connection) -> None:
    os.dup2(writing.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    status = 0
    try:
        os.environ.update(environment)
        for function in cloudpickle.loads(task):
            function()
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    os._exit(status)


class Steps:
    """Counts what a process writes and renames, and kills it at one of these steps.

    Args:
        at: Number of the step, from 0; None for none.
        when: `before` it, in the `middle` of it (half of a text or file is written; a rename has no middle) or `after`.
        notes: File that gets a line for each step.
    """

    def __init__(self, at: int | None = None, when: str = "before", notes: Path | None = None) -> None:
        self._at, self._when, self._number = at, when, 0
        self._path, self._notes = notes, None

    def watch(self) -> None:
        """Puts itself around the functions that write; to be called in the child."""
        self._notes = None if self._path is None else self._path.open("a", buffering=1)
        self._wherever(full.append, "append", _half_appended)
        torch.save = self._around(torch.save, "torch.save", _half_file)
        Path.write_bytes = self._around(Path.write_bytes, "write_bytes", _half_bytes)  # type: ignore[method-assign]
        Path.write_text = self._around(Path.write_text, "write_text", _half_text)  # type: ignore[method-assign]
        replaced._exchange = self._around(replaced._exchange, "exchange")
        for owner, name in ((os, "replace"), (os, "rename"), (shutil, "rmtree"), (os, "fsync")):
            setattr(owner, name, self._around(getattr(owner, name), name))

    def _wherever(self, function: Any, name: str, half: Any) -> None:
        """Replaces a function in all modules that have imported it."""
        made = self._around(function, name, half)
        for module in list(sys.modules.values()):
            if getattr(module, name, None) is function:
                setattr(module, name, made)

    def _around(self, function: Any, name: str, half: Any = None) -> Any:
        def step(*args: Any, **kwargs: Any) -> Any:
            number, self._number = self._number, self._number + 1
            if self._notes is not None:
                self._notes.write(f"{name} {_called(args)}\n")
            deadly = number == self._at
            if deadly and self._when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            if deadly and self._when == "middle":
                if half is not None:
                    half(function, *args, **kwargs)
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **kwargs)
            if deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return step


def _called(args: Any) -> str:
    names = [arg.name for arg in args if isinstance(arg, Path)]
    return " ".join(name.replace(str(os.getpid()), "PID") for name in names)


def _half_appended(function: Any, path: Path, text: str, **_: Any) -> None:
    with builtins.open(path, "a") as file:
        file.write(text[: len(text) // 2])


def _half_text(function: Any, path: Path, text: str = "", **options: Any) -> None:
    function(path, text[: len(text) // 2], **options)


def _half_bytes(function: Any, path: Path, data: bytes) -> None:
    function(path, data[: len(data) // 2])


def _half_file(function: Any, tensors: Any, path: Path, *args: Any, **kwargs: Any) -> None:
    function(tensors, path, *args, **kwargs)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def small_disk(limit: int) -> Callable[[], None]:
    """Lets no file of the child grow beyond so many bytes, which every writer sees as it sees a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder by their names, but those of TensorBoard and of the lock."""
    left_out = ("tensorboard", ".lock")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if not path.relative_to(folder).parts[0].startswith(left_out)
    }
