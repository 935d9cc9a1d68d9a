"""A live source that drops comes back: opened again, later and later, for as long as one is willing to wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Literal, get_args

from eventful.errors import UserError, VideoError
from eventful.video.frames import Frame, FrameReader, TimedFrame

OnError = Literal["stop", "flush", "skip"]
"""What a live source does that breaks, falls silent, ends or changes its size: end the run; go on from a flush once it
is back; or go on from the state of before."""

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
"""Between two attempts to open a source; each wait is twice as long as the one before."""

PATIENCE_S = 600.0
"""Time without a frame after which a source counts as gone."""


class ReconnectingReader(FrameReader):
    """Frames of a live source over all its connections, with the times at which they came.

    Args:
        reader: The source, as it was opened first.
        reopen: Opens it again; raises `VideoError` where that fails.
        on_error: `flush`, or `skip`, after which the run goes on with what it knew.
        patience: Seconds without a frame after which the last error is raised.
        first_wait: Seconds before the first new attempt.

    Attributes:
        reconnections: Number of times that the source has come back.
        cuts: See `FrameReader`.
    """

    live = True
    count = None

    def __init__(
        self,
        reader: FrameReader,
        reopen: Callable[[], FrameReader],
        on_error: Literal["flush", "skip"] = "flush",
        patience: float = PATIENCE_S,
        first_wait: float = FIRST_WAIT_S,
    ) -> None:
        self.source, self.fps, self._reader, self._reopen = reader.source, reader.fps, reader, reopen
        self._on_error, self._patience, self._first_wait = on_error, patience, first_wait
        self._skipped_before = self.reconnections = 0

    @property
    def skipped(self) -> int:  # type: ignore[override]  # a plain attribute of readers that count for themselves
        """Damaged packets that were left out, over all connections."""
        return self._skipped_before + self._reader.skipped

    @property
    def origin(self) -> FrameReader:
        """See `FrameReader.origin`: the reader of the present connection."""
        return self._reader.origin

    def __iter__(self) -> Iterator[Frame]:
        """See `FrameReader.__iter__`."""
        return (frame for frame, _ in self.timed())

    def timed(self) -> Iterator[TimedFrame]:
        """See `FrameReader.timed`; the time without a connection counts.

        Raises:
            VideoError: If the source has been gone for longer than `patience`, saying why the last attempt failed.
        """
        began = lost = time.monotonic()
        offset = shown = 0.0
        while True:
            known = self.reconnections
            try:
                for frame, seconds in self._reader.timed():
                    if known:
                        # Sources that send ahead of time are ahead of this clock, too.
                        offset, known = max(time.monotonic() - began, shown + 1 / self.fps), 0
                    shown = offset + seconds
                    yield TimedFrame(frame, shown)
                    lost = time.monotonic()
                problem = VideoError(f"video {self.source} has ended")
            except VideoError as error:
                problem = error
            self._reconnect(lost, problem)

    def _reconnect(self, lost: float, problem: VideoError) -> None:
        """Opens the source again; `lost` is when it gave its last frame."""
        wait = self._first_wait
        while True:
            if time.monotonic() - lost + wait > self._patience:
                raise VideoError(
                    f"video {self.source} has been gone for {time.monotonic() - lost:.0f} s: {problem}"
                ) from problem
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)
            try:
                reader = self._reopen()
            except VideoError as error:
                problem = error
                continue
            self._skipped_before += self._reader.skipped
            self._reader = reader
            self.reconnections += 1
            self.cuts += self._on_error == "flush"
            return


def reconnecting(open_source: Callable[[], FrameReader], on_error: OnError) -> FrameReader:
    """The frames of a source that may be live.

    Args:
        open_source: Opens it.
        on_error: What a live source does that breaks.

    Raises:
        UserError: If there is no such `on_error`.
        VideoError: If it cannot be opened.
    """
    if on_error not in get_args(OnError):
        raise UserError(f"on_error must be one of {', '.join(get_args(OnError))}, got {on_error!r}")
    reader = open_source()
    if on_error == "stop" or not reader.live:
        return reader
    return ReconnectingReader(reader, open_source, on_error)
