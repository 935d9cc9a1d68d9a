"""What a source of frames is, whatever it reads from.

Frames are uint8 RGB arrays (H, W, 3), as they are to be seen: upright, not mirrored, with square pixels.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
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
        cuts: Number of times so far that the next frame has nothing to do with the one before.
        reconnections: Number of times so far that a live source has come back.
    """

    source: str
    fps: float
    count: int | None
    skipped: int = 0
    live: bool = False
    cuts: int = 0
    reconnections: int = 0

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

    @property
    def origin(self) -> FrameReader:
        """The reader that opens the source: itself, unless its frames are made of another's."""
        return self


@dataclass(frozen=True)
class Tubelet:
    """Frames of a video that a model takes as one, one above the other.

    Attributes:
        frames: Number n of frames.
        stride: Frames of the video from one of them to the next, and to the first one of the next tubelet.
    """

    frames: int
    stride: int = 1


class DerivedReader(FrameReader):
    """Frames made of another reader's, which are given by `timed`.

    Args:
        reader: The other reader.
    """

    def __init__(self, reader: FrameReader) -> None:
        self._reader = reader
        self.source, self.fps, self.count, self.live = reader.source, reader.fps, reader.count, reader.live

    @property
    def origin(self) -> FrameReader:
        """See `FrameReader.origin`."""
        return self._reader.origin

    @property
    def skipped(self) -> int:  # type: ignore[override]  # a plain attribute of readers that count for themselves
        """See `FrameReader`."""
        return self._reader.skipped

    @property
    def reconnections(self) -> int:  # type: ignore[override]
        """See `FrameReader`."""
        return self._reader.reconnections

    def __iter__(self) -> Iterator[Frame]:
        """See `FrameReader.__iter__`."""
        return (frame for frame, _ in self.timed())


class TubeletReader(DerivedReader):
    """The tubelets of a video (n * H, W, 3), each at the time of its first frame.

    A last tubelet that lacks frames repeats the video's last one.

    Args:
        reader: Reader of the video.
        tubelet: What a tubelet is made of.
    """

    def __init__(self, reader: FrameReader, tubelet: Tubelet) -> None:
        super().__init__(reader)
        self._tubelet = tubelet
        each = tubelet.frames * tubelet.stride
        self.fps = reader.fps / each
        self.count = None if reader.count is None else -(-reader.count // each)

    def timed(self) -> Iterator[TimedFrame]:
        """See `FrameReader.timed`."""
        held: list[TimedFrame] = []
        for timed in islice(self._reader.timed(), None, None, self._tubelet.stride):
            if self._reader.cuts != self.cuts:
                held, self.cuts = [], self._reader.cuts
            held.append(timed)
            if len(held) == self._tubelet.frames:
                yield _stacked(held)
                held = []
        if held:
            yield _stacked(held + held[-1:] * (self._tubelet.frames - len(held)))


def in_tubelets(reader: FrameReader, tubelet: Tubelet | None) -> FrameReader:
    """The frames of a video as a model takes them: its tubelets, or themselves for None."""
    return reader if tubelet is None else TubeletReader(reader, tubelet)


def _stacked(frames: list[TimedFrame]) -> TimedFrame:
    return TimedFrame(np.concatenate([frame for frame, _ in frames]), frames[0].time)


def size_text(shape: tuple[int, ...]) -> str:
    """Height x width of a frame, for messages."""
    return f"{shape[0]}x{shape[1]}"


def reason(error: BaseException) -> str:
    """The system's words, without error numbers and repeated file names."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__).splitlines()[0]
