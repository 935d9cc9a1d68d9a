"""Frames decoded, and made what players show, on a thread of their own while the model works on those before."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from eventful.video.frames import DerivedReader, FrameReader, TimedFrame

AHEAD = 2
"""Frames that are held ready: one is enough to hide the reading, a second one evens out frames that take longer."""


@dataclass(frozen=True)
class _Read:
    """A frame, or what ended the reading: an error, or nothing."""

    frame: TimedFrame | None
    cuts: int
    error: BaseException | None = None


class ReadAhead(DerivedReader):
    """The frames of another reader, a few of them read in advance.

    Args:
        reader: Reader of a source that does not change while it is read; live ones are better read directly, so that
            no frame waits while newer ones are there.
    """

    def timed(self) -> Iterator[TimedFrame]:
        """See `FrameReader.timed`."""
        ready: queue.Queue[_Read] = queue.Queue(AHEAD)
        stopped = threading.Event()
        thread = threading.Thread(target=self._read, args=(ready, stopped), name="read ahead", daemon=True)
        thread.start()
        try:
            while True:
                read = ready.get()
                if read.error is not None:
                    raise read.error
                if read.frame is None:
                    return
                self.cuts = read.cuts
                yield read.frame
        finally:
            stopped.set()
            # The thread may be waiting for room; whatever is left is not wanted any more.
            while thread.is_alive():
                try:
                    ready.get(timeout=0.01)
                except queue.Empty:
                    continue
            thread.join()

    def _read(self, ready: queue.Queue[_Read], stopped: threading.Event) -> None:
        """Runs in the thread."""
        try:
            for frame in self._reader.timed():
                ready.put(_Read(frame, self._reader.cuts))
                if stopped.is_set():
                    return
            ready.put(_Read(None, self._reader.cuts))
        except BaseException as error:  # whatever it is belongs to whoever asks for the next frame
            ready.put(_Read(None, self._reader.cuts, error))


def read_ahead(reader: FrameReader) -> FrameReader:
    """The frames of a file read in advance; those of a live source as they come."""
    return reader if reader.live else ReadAhead(reader)
