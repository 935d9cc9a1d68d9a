"""Places in a video file from which decoding goes on, so that frames are found by time without decoding all of them.

Shape suffixes: H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from av.error import FFmpegError

from eventful.cli import one_line
from eventful.errors import VideoError
from eventful.video.display import as_displayed
from eventful.video.frames import Frame
from eventful.video.streams import open_source

END_SLACK_S = 0.5
"""Seconds by which a video may end before its header says."""

_MICROSECOND = 1e-6
_FIRST_STEP_BACK_S = 1.0

_Timed = tuple[float, Any]
"""A decoded picture and its time in seconds."""


@dataclass(frozen=True)
class VideoFacts:
    """What the header of a video says.

    Attributes:
        duration_s: Seconds from the start to the end of its last frame.
        fps: Frames per second, on average.
    """

    duration_s: float
    fps: float


@lru_cache(maxsize=4096)
def video_facts(path: Path) -> VideoFacts:
    """Opens a video and decodes its first frame.

    Raises:
        VideoError: If it is missing, or cannot be decoded.
    """
    head = Playhead(path, 0.0)
    try:
        return VideoFacts(head.duration_s(), head.fps)
    finally:
        head.close()


class Playhead:
    """A place in a video; it goes forward.

    Times are seconds from the start of the file, as players and `ffmpeg -ss` count them, from the frames' own stamps.

    Args:
        path: Video file.
        time_s: Where to start; frames of that time and later are found.

    Raises:
        VideoError: If the video cannot be decoded there.
    """

    def __init__(self, path: Path, time_s: float) -> None:
        self.path = path
        if not path.is_file():
            raise VideoError(f"video {path} does not exist")
        self._container: Any = open_source(str(path))
        try:
            self._stream: Any = self._container.streams.best("video")
            self._origin_s = (self._container.start_time or 0) * _MICROSECOND
            self._frames, self._before = self._seek(time_s)
            self._after: _Timed | None = self._before
        except VideoError:
            self.close()
            raise

    @property
    def fps(self) -> float:
        """Frames per second, on average."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        if not rate:
            raise VideoError(f"video {self.path} does not say how many frames it has per second")
        return float(rate)

    @property
    def time_s(self) -> float:
        """Time of the frame that was reached: earlier ones are not found any more."""
        return self._before[0]

    def duration_s(self) -> float:
        """Seconds from the start to the end of the last frame; where the header does not say, all packets are read."""
        stream = self._stream
        if stream.duration is not None:
            return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - self._origin_s
        if self._container.duration is not None:
            return float(self._container.duration * _MICROSECOND)
        self._container.seek(0)
        ends = [(p.pts + (p.duration or 0)) * p.time_base for p in self._container.demux(stream) if p.pts is not None]
        return float(max(ends)) - self._origin_s

    def frame(self, time_s: float) -> Frame:
        """The frame whose time is nearest, uint8 RGB (H, W, 3), as it is to be seen; of two that are, the earlier.

        Raises:
            VideoError: If the video breaks, or ends more than half a second before.
        """
        while self._after is not None and self._after[0] <= time_s:
            self._before, self._after = self._after, next(self._frames, None)
        late_s = time_s - self._before[0]
        if self._after is None and late_s > END_SLACK_S + 1 / self.fps:
            raise VideoError(f"video {self.path} ends at {self._before[0]:.2f} s; a frame at {time_s:.2f} s is wanted")
        if self._after is not None and self._after[0] - time_s < late_s - _MICROSECOND:
            return self._shown(self._after[1])
        return self._shown(self._before[1])

    def close(self) -> None:
        """Closes the file."""
        self._container.close()

    def _seek(self, time_s: float) -> tuple[Iterator[_Timed], _Timed]:
        """Starts at a key frame that is not later; containers may point to one that is, so go back until it is not."""
        back_s = _FIRST_STEP_BACK_S
        while True:
            start_s = max(time_s - back_s, 0.0)
            frames = self._decoded(start_s)
            first = next(frames, None)
            if first is not None and (first[0] <= time_s or start_s == 0.0):
                return frames, first
            if start_s == 0.0:
                raise VideoError(f"video {self.path} has no frames")
            back_s *= 4

    def _decoded(self, start_s: float) -> Iterator[_Timed]:
        """Frames with their times, from a key frame near `start_s` on."""
        time_s = start_s
        try:
            self._container.seek(round((start_s + self._origin_s) / _MICROSECOND))
            for picture in self._container.decode(self._stream):
                if picture.time is None:
                    raise VideoError(f"video {self.path}: frames have no times")
                time_s = picture.time - self._origin_s
                yield time_s, picture
        except (FFmpegError, ValueError) as error:
            raise VideoError(f"video {self.path} cannot be decoded after {time_s:.2f} s: {one_line(error)}") from error

    def _shown(self, picture: Any) -> Frame:
        return as_displayed(picture, self._stream.sample_aspect_ratio, f"video {self.path}")
