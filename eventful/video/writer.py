"""Writes video frame by frame; the file is finished whatever ends the writing, and plays even if nothing finishes it.

Frames are uint8 RGB arrays (H, W, 3).
"""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.format import Flags
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from eventful.errors import VideoError
from eventful.video.frames import Frame, reason, size_text
from eventful.video.sound import Sound

TICKS = 60000
"""Ticks a second, the unit of time of frames: whole numbers for 24, 25, 30, 50, 60 and 30000/1001 frames a second as
well as for milliseconds. MPEG-4 takes no more than 65535."""

CONTAINER_OPTIONS = {
    # What has been written is on the disk at once, so that it is not lost and a full disk is noticed.
    "flush_packets": "1",
    # Of MP4: fragments of a second, which play also when the process is killed; edit lists keep the sound in its place.
    "movflags": "frag_keyframe+delay_moov",
    "frag_duration": "1000000",
    # Of Matroska: clusters of a second.
    "cluster_time_limit": "1000",
}
ENCODER_OPTIONS = {"libx264": {"preset": "veryfast"}}
"""The model shares its processor with the encoder: at x264's default preset a frame takes more than twice the time, and
the file is no smaller."""

AVCOL_SPC_BT709 = 1


class VideoWriter:
    """Writes frames to a video file: H.264 where the codec is there, else MPEG-4.

    Use as a context manager; the file is finished on the way out, also after an error or an interrupt. Nothing is
    created before the first frame. Sides of odd length grow by one repeated row or column.

    Args:
        path: Path of the file; the suffix chooses the container (.mp4, .mkv, ...).
        fps: Frames per second, for frames that come without a time.
        sound: Sound to copy beside the frames; None for none.

    Raises:
        VideoError: If the file cannot be written, or a frame has another size than the first.
    """

    def __init__(self, path: str | Path, fps: float, sound: Sound | None = None) -> None:
        self.path = Path(path)
        self._fps = Fraction(fps).limit_denominator(1001)
        self._sound = sound
        self._container: Any = None
        self._stream: Any = None
        self._shape: tuple[int, ...] = ()
        self._reformatter = VideoReformatter()
        self._index, self._end_s = 0, 0.0
        self._tick, self._last_tick, self._one_rate = Fraction(1, TICKS), -1, False

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, frame: Frame, time: float | None = None) -> None:
        """Appends a frame.

        Args:
            frame: uint8 RGB (H, W, 3).
            time: When it is shown, in seconds from the beginning; its number / fps if None. Times ascend.
        """
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise VideoError(f"a frame must be uint8 (H, W, 3), got {frame.dtype} {frame.shape}")
        if self._container is None:
            self._create(frame.shape)
        if frame.shape != self._shape:
            raise VideoError(
                f"frame of {size_text(frame.shape)} in a video of {size_text(self._shape)} (height x width)"
            )
        seconds = self._index / float(self._fps) if time is None else time
        picture = self._encoded_as(frame)
        picture.pts, picture.time_base = self._ticks(seconds), self._tick
        # For how long the last frame is shown; players take that of the others from the times.
        picture.duration = round(1 / self._fps / self._tick)
        self._index, self._end_s = self._index + 1, seconds + 1 / float(self._fps)
        try:
            self._container.mux(self._stream.encode(picture))
            if self._sound is not None:
                self._sound.copy_until(seconds)
        except (FFmpegError, OSError) as error:
            # Finishing would fail in the same way, and hide this error.
            container, self._container = self._container, None
            with suppress(FFmpegError, OSError):
                container.close()
            raise VideoError(f"video {self.path} cannot be written: {reason(error)}") from error

    def _encoded_as(self, frame: Frame) -> av.VideoFrame:
        """Even sides, in BT.709, which is what players assume of large pictures that do not say."""
        even = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(even, format="rgb24")
        return self._reformatter.reformat(
            picture, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )

    def close(self) -> None:
        """Finishes the file. May be called twice."""
        container, self._container = self._container, None
        try:
            if container is not None:
                container.mux(self._stream.encode())
                if self._sound is not None:
                    self._sound.copy_until(self._end_s)
                container.close()
        except (FFmpegError, OSError) as error:
            raise VideoError(f"video {self.path} cannot be finished: {reason(error)}") from error
        finally:
            if self._sound is not None:
                self._sound.close()

    def _ticks(self, seconds: float) -> int:
        """A time as the container counts it."""
        tick = round(seconds / self._tick)
        if self._one_rate and tick != self._index:
            raise VideoError(
                f"video {self.path}: its container holds one frame rate only, and frame {self._index} comes at "
                f"{seconds:.3f} s instead of {float(self._index / self._fps):.3f} s: write .mp4 or .mkv"
            )
        tick = max(tick, self._last_tick + 1)
        self._last_tick = tick
        return tick

    def _create(self, shape: tuple[int, ...]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._open(shape)
            except (FFmpegError, ValueError) as error:
                if self._sound is None:
                    raise
                # Some containers find out at their header that they do not take a sound.
                self._sound.leave_out(f"{self.path.suffix} does not take it ({reason(error)})")
                self._sound.close()
                self._sound = None
                self._open(shape)
        except (FFmpegError, OSError, ValueError) as error:
            raise VideoError(f"video {self.path} cannot be written: {reason(error)}") from error
        self._shape = shape

    def _open(self, shape: tuple[int, ...]) -> None:
        """Opens the file and writes its header."""
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        container: Any = av.open(str(self.path.absolute()), "w", container_options=CONTAINER_OPTIONS)
        stream = container.add_stream(codec, rate=self._fps, options=ENCODER_OPTIONS.get(codec, {}))
        if not container.format.flags & Flags.variable_fps.value:
            # Such containers (AVI) count frames, in the order in which they are decoded.
            self._tick, self._one_rate = 1 / self._fps, True
            stream.codec_context.max_b_frames = 0
        stream.height, stream.width = shape[0] + shape[0] % 2, shape[1] + shape[1] % 2
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = self._tick
        stream.codec_context.colorspace, stream.codec_context.color_range = AVCOL_SPC_BT709, ColorRange.MPEG
        if self._sound is not None:
            self._sound.join(container)
        container.start_encoding()
        self._container, self._stream = container, stream
