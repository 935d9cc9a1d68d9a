"""Writes video frame by frame; the file is finished whatever ends the writing.

Frames are uint8 RGB arrays (H, W, 3).
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from eventful.errors import VideoError
from eventful.video.reader import Frame, reason, size_text


class VideoWriter:
    """Writes frames to a video file: H.264 where the codec is there, else MPEG-4.

    Use as a context manager; the file is finished on the way out, also after an error or an interrupt. Nothing is
    created before the first frame. Sides of odd length grow by one repeated row or column.

    Args:
        path: Path of the file; the suffix chooses the container (.mp4, .mkv, ...).
        fps: Frames per second.

    Raises:
        VideoError: If the file cannot be written, or a frame has another size than the first.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        self.path = Path(path)
        self._fps = Fraction(fps).limit_denominator(1001)
        self._container: Any = None
        self._stream: Any = None
        self._shape: tuple[int, ...] = ()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, frame: Frame) -> None:
        """Appends a uint8 RGB frame (H, W, 3)."""
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise VideoError(f"a frame must be uint8 (H, W, 3), got {frame.dtype} {frame.shape}")
        if self._container is None:
            self._create(frame.shape)
        if frame.shape != self._shape:
            raise VideoError(
                f"frame of {size_text(frame.shape)} in a video of {size_text(self._shape)} (height x width)"
            )
        even = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(even, format="rgb24")
        try:
            self._container.mux(self._stream.encode(picture))
        except (FFmpegError, OSError) as error:
            raise VideoError(f"video {self.path} cannot be written: {reason(error)}") from error

    def close(self) -> None:
        """Finishes the file. May be called twice."""
        container, self._container = self._container, None
        if container is None:
            return
        try:
            container.mux(self._stream.encode())
            container.close()
        except (FFmpegError, OSError) as error:
            raise VideoError(f"video {self.path} cannot be finished: {reason(error)}") from error

    def _create(self, shape: tuple[int, ...]) -> None:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            container: Any = av.open(str(self.path.absolute()), "w")
            stream = container.add_stream(codec, rate=self._fps)
        except (FFmpegError, OSError, ValueError) as error:
            raise VideoError(f"video {self.path} cannot be written: {reason(error)}") from error
        stream.height, stream.width = shape[0] + shape[0] % 2, shape[1] + shape[1] % 2
        stream.pix_fmt = "yuv420p"
        self._container, self._stream, self._shape = container, stream, shape
