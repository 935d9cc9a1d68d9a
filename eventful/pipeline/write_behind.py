"""Work that nobody waits for, done in order on a thread of its own: drawing and encoding while the next frame runs.

Only where there is a processor for it: a model that keeps all of them busy with parallel loops is held up at the end of
each loop, by whatever takes one of them away (docs/lab-notes.md).
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from types import TracebackType

import torch

BEHIND = 2
"""Pieces of work that may wait: whoever is faster than the thread is held up, so that memory stays bounded."""


class WriteBehind:
    """Does pieces of work one after the other, while the caller goes on if `threaded`.

    Use as a context manager: on the way out, also after an error or an interrupt, what was handed in is finished.
    What a piece of work raises is raised at the next call, once; later pieces are dropped then.
    """

    def __init__(self, threaded: bool) -> None:
        self._threaded = threaded
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(BEHIND)
        self._error: BaseException | None = None
        self._failed = False
        self._thread = threading.Thread(target=self._work, name="write behind", daemon=True)

    def __enter__(self) -> WriteBehind:
        if self._threaded:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._threaded:
            self._waiting.put(None)
            self._thread.join()
        # An error that is under way already says more than one that follows from it.
        if error is None:
            self._raise()

    def do(self, work: Callable[[], None]) -> None:
        """Hands in a piece of work; waits while too many are waiting.

        Raises:
            BaseException: What an earlier piece raised, or this one if nothing is threaded.
        """
        if not self._threaded:
            work()
            return
        self._raise()
        self._waiting.put(work)

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _work(self) -> None:
        """Runs in the thread."""
        while (work := self._waiting.get()) is not None:
            if self._failed:
                continue
            try:
                work()
            except BaseException as error:  # it belongs to whoever hands in the next piece
                self._error, self._failed = error, True


def spare_processor(device: torch.device) -> bool:
    """Whether a model on this device leaves a processor of the host free."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return device.type != "cpu" or processors > torch.get_num_threads()
