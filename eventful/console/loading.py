"""Ctrl-C while a command of this distribution still loads its libraries, which takes seconds."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

EXIT_INTERRUPTED = 130

PACKAGES = ("eventful", "envs", "train")
"""Of this distribution, with modules that `python -m` runs as commands."""


def end_in_one_line() -> None:
    """Until `stop` an interrupt ends the process with one line and code 130, if it is one of our commands.

    In a program of the user's own, which imports this package, interrupts are left as they are.
    """
    in_charge = threading.current_thread() is threading.main_thread()
    if in_charge and _command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def stop() -> None:
    """From here on an interrupt is a `KeyboardInterrupt` again, for the command to end with."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(signum: int, frame: FrameType | None) -> None:
    # Modules that are half imported cannot be left in an orderly way, and nothing has been computed.
    os.write(2, f"{_command()}: interrupted\n".encode())
    os._exit(EXIT_INTERRUPTED)


def _command() -> str:
    """`eventful-infer`, `train.report`, ...; empty in programs of others."""
    name = Path(sys.argv[0]).name if sys.argv else ""
    if name.startswith("eventful-"):
        return name
    # While packages are imported for `python -m MODULE`, its name stands nowhere else.
    given = sys.orig_argv
    module = given[given.index("-m") + 1] if name == "-m" and "-m" in given[:-1] else ""
    return module if module.split(".")[0] in PACKAGES else ""
