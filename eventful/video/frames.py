"""What a source of frames is, whatever it reads from.

Frames are uint8 RGB arrays (H, W, 3), as they are to be seen: upright, not mirrored, with square pixels.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]

DEFAULT_FPS = 25.0


class TimedFrame(NamedTuple):
    """A frame and when it is shown.

    Attributes:
        frame: uint8 RGB (H, W, 3).
        time: Seconds since the first frame.
    """

    frame: Frame
    time: float


class FrameReader(abc.ABC):
    """Frames of one video. Iterate once; each iteration starts from the first frame.

    Attributes:
        source: Path or address that is read.
        fps: Frames per second: a mean, or a guess, where the frames come at times of their own.
        count: Number of frames if the source says so, else None. Not every source tells the truth.
        skipped: Number of damaged packets that were left out so far; always 0 unless the source is live.
        live: Whether frames come when they happen, and are waited for.
    """

    source: str
    fps: float
    count: int | None
    skipped: int = 0
    live: bool = False

    @abc.abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Yields frames (H, W, 3), all of the same size.

        Raises:
            VideoError: Where the video breaks or changes its size, after the frames before that.
        """

    def timed(self) -> Iterator[TimedFrame]:
        """Yields frames with their times, and raises as iterating does; at equal distances unless the source knows."""
        for index, frame in enumerate(self):
            yield TimedFrame(frame, index / self.fps)


def size_text(shape: tuple[int, ...]) -> str:
    """Height x width of a frame, for messages."""
    return f"{shape[0]}x{shape[1]}"


def reason(error: BaseException) -> str:
    """The system's words, without error numbers and repeated file names."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__).splitlines()[0]
