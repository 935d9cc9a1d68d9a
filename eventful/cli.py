"""The frame of all console commands: errors that a user can act on end as one line and exit code 2.

The rule: `EventfulError` (all that this package raises on purpose), `OSError` (the file system, the network) and a
full GPU become one line on stderr. Everything else is a programming error and keeps its traceback. Where a command
hands input of the user to code that reports it as a plain `ValueError` (`policies` knows none of the errors of this
package), it does so inside `user_input`. Options that all commands take are those of `eventful.console.options`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import torch

from eventful.console import loading
from eventful.console.options import split_common, versions
from eventful.console.output import quiet
from eventful.errors import EventfulError, UserError

EXIT_BAD_INPUT = 2
EXIT_BY_SIGNAL = 128


def run(command: str, main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command's main function, unless `--version` is all that is asked, and exits.

    Args:
        command: Name of the command, with which its error lines begin.
        main: Function that takes the arguments, without the common ones; returns when it has succeeded.
        argv: Arguments without the program name; those of the process if None.

    Raises:
        SystemExit: Always. Code 0 after success, 2 after an error in the input, 130 after an interrupt, 128 and the
            number of the signal after SIGTERM or SIGHUP.
    """
    _terminate_cleanly()
    loading.stop()
    arguments, is_quiet, asks_version = split_common(sys.argv[1:] if argv is None else argv)
    try:
        if asks_version:
            print(versions())
            sys.exit(0)
        with quiet(is_quiet):
            main(arguments)
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`); the interpreter's own flush at exit would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (EventfulError, OSError, torch.OutOfMemoryError) as error:
        print(f"{command}: error: {one_line(error)}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        print(f"{command}: interrupted", file=sys.stderr)
        sys.exit(loading.EXIT_INTERRUPTED)
    sys.exit(0)


def one_line(error: BaseException) -> str:
    """An error's message on one line; an `OSError` of the system keeps its file name."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def user_input(what: str) -> Iterator[None]:
    """Turns a `ValueError` about something that the user gave into a `UserError`.

    Args:
        what: Name of the input, such as `--policy runs/demo`, with which the message begins.

    Raises:
        UserError: For a `ValueError` in the `with` block.
    """
    try:
        yield
    except EventfulError:
        raise
    except ValueError as error:
        raise UserError(f"{what}: {one_line(error)}") from error


def _terminate_cleanly() -> None:
    """Makes signals that end a process unwind the stack, so that files that are being written are finished."""
    if threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGTERM, _on_terminate)
    # `nohup` has it ignored.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _on_terminate)


def _on_terminate(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(EXIT_BY_SIGNAL + number)
