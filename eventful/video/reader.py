"""Reads video, one frame at a time and in bounded memory.

`read_frames` takes whatever PyAV opens (a file, a stream address, a camera such as /dev/video0) or a folder of images.
A video that breaks yields the frames before the fault, then raises `VideoError`. A live source loses packets now and
then: there the damaged packets are left out and counted.

Frames are uint8 RGB arrays (H, W, 3).
"""

from __future__ import annotations

import abc
import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray
from PIL import Image, ImageOps

from eventful.errors import VideoError

Frame = NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "rtp", "srtp", "rtmp", "rtmps", "udp", "srt", "tcp"})
DEFAULT_FPS = 25.0
STREAM_TIMEOUT_S = 15.0
DURATION_SLACK_S = 0.5


class FrameReader(abc.ABC):
    """Frames of one video. Iterate once; each iteration starts from the first frame.

    Attributes:
        source: Path or address that is read.
        fps: Frames per second.
        count: Number of frames if the source says so, else None. Not every container tells the truth.
        skipped: Number of damaged packets that were left out so far; always 0 unless the source is live.
    """

    source: str
    fps: float
    count: int | None
    skipped: int = 0

    @abc.abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Yields frames (H, W, 3), all of the same size.

        Raises:
            VideoError: Where the video breaks or changes its size, after the frames before that.
        """


def read_frames(source: str | Path, fps: float | None = None) -> FrameReader:
    """Opens a video.

    Args:
        source: Video file, stream address, camera device, or folder of images (read in natural order: 2 before 10).
        fps: Frames per second of a folder of images, 25 if None; other sources know their own.

    Returns:
        An iterable of uint8 RGB frames (H, W, 3), which holds one frame at a time.

    Raises:
        VideoError: If the source is missing, is no video, or is a folder without images.
    """
    text = str(source)
    if "://" in text:
        return StreamReader(text, live=text.partition("://")[0] in LIVE_SCHEMES)
    path = Path(text)
    if path.is_dir():
        return _FolderReader(path, DEFAULT_FPS if fps is None else fps)
    if not path.exists():
        raise VideoError(f"video {text} does not exist")
    return StreamReader(text, live=_device_format(text) is not None)


def images_in(folder: Path) -> list[Path]:
    """The images of a folder in natural order; hidden files are left out."""
    images = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    return sorted(images, key=_natural)


class _FolderReader(FrameReader):
    """A folder of images as a video."""

    def __init__(self, folder: Path, fps: float) -> None:
        self._paths = images_in(folder)
        if not self._paths:
            kinds = ", ".join(sorted(IMAGE_SUFFIXES))
            raise VideoError(f"folder {folder} has no images ({kinds})")
        self.source, self.fps, self.count = str(folder), fps, len(self._paths)

    def __iter__(self) -> Iterator[Frame]:
        first: tuple[int, ...] | None = None
        for path in self._paths:
            frame = _read_image(path)
            first = first or frame.shape
            if frame.shape != first:
                sizes = f"{size_text(frame.shape)} (height x width), the images before it are {size_text(first)}"
                raise VideoError(f"image {path} is {sizes}")
            yield frame


class StreamReader(FrameReader):
    """Frames of a source that PyAV opens.

    Args:
        source: Video file, stream address or camera device.
        live: Whether damaged packets are left out instead of ending with an error.
    """

    def __init__(self, source: str, live: bool = False) -> None:
        self.source, self._live = source, live
        with self._open() as container:
            stream = _film(container)
            self.count = stream.frames or None
            self.fps = float(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)

    def __iter__(self) -> Iterator[Frame]:
        size: tuple[int, ...] | None = None
        with self._open() as container:
            for k, frame in enumerate(self._decoded(container)):
                array = _upright(frame.to_ndarray(format="rgb24"), getattr(frame, "rotation", 0))
                size = size or array.shape
                if array.shape != size:
                    raise VideoError(
                        f"video {self.source} changes its size at frame {k} "
                        f"from {size_text(size)} to {size_text(array.shape)} (height x width)"
                    )
                yield array

    def _open(self) -> Any:
        remote = "://" in self.source
        # FFmpeg takes what stands before a colon for a protocol, but not in an absolute path.
        source = self.source if remote else str(Path(self.source).absolute())
        try:
            container = av.open(
                source, format=_device_format(self.source), timeout=STREAM_TIMEOUT_S if remote else None
            )
        except (FFmpegError, OSError, ValueError) as error:
            raise VideoError(f"video {self.source} cannot be opened: {reason(error)}") from error
        if not container.streams.video:
            container.close()
            raise VideoError(f"video {self.source} has no video stream")
        return container

    def _decoded(self, container: Any) -> Iterator[Any]:
        """Decoded frames; a damaged packet, a decoding error or an early end is an error after the frames before it."""
        stream = _film(container)
        decoded = packets = 0
        end_s = 0.0
        fault: Exception | None = None
        for packet in _until_fault(container.demux(stream)):
            fault = packet if isinstance(packet, Exception) else None
            for frame in () if fault else _until_fault(_decode(packet)):
                if isinstance(frame, Exception):
                    fault = frame
                    break
                decoded += 1
                yield frame
            if fault and self._live and fault is not packet:
                self.skipped += 1
                continue
            if fault:
                for frame in _drain(stream):
                    decoded += 1
                    yield frame
                raise VideoError(
                    f"video {self.source} is damaged or cut off after {decoded} frames: {reason(fault)}"
                ) from fault
            packets += packet.size > 0
            if packet.pts is not None and packet.time_base:
                end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        missing = _missing(container, packets, end_s)
        if missing:
            raise VideoError(f"video {self.source} is cut off after {decoded} frames: it should have {missing}")
        if decoded == 0:
            raise VideoError(f"video {self.source} has no frames")


def _read_image(path: Path) -> Frame:
    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow reports damaged files by any of these.
        raise VideoError(f"image {path} cannot be read: {reason(error)}") from error


def _until_fault(items: Iterator[Any]) -> Iterator[Any]:
    """The items; an error of FFmpeg that ends them becomes the last item."""
    try:
        yield from items
    except (FFmpegError, OSError, ValueError) as error:
        yield error


def _decode(packet: Any) -> Iterator[Any]:
    if packet.is_corrupt:
        raise ValueError("incomplete packet")
    yield from packet.decode()


def _drain(stream: Any) -> Iterator[Any]:
    """Frames that the decoder still holds; after damage it may refuse to hand them out."""
    with contextlib.suppress(FFmpegError, ValueError):
        yield from stream.decode(None)


def _film(container: Any) -> Any:
    """The video stream that FFmpeg, too, would play: no cover picture beside a film."""
    return container.streams.best("video")


def _missing(container: Any, packets: int, end_s: float) -> str | None:
    """What the container promises and did not deliver, or None."""
    stream = _film(container)
    if "mp4" in container.format.name:
        # Edit lists hide frames on purpose, so the promised number means nothing; a cut shows as a damaged packet.
        return None
    if stream.frames and packets < stream.frames:
        return f"{stream.frames} frames"
    tag = re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))
    promised_s = 0.0 if tag is None else int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
    return f"{promised_s:.1f} s" if end_s < promised_s - DURATION_SLACK_S else None


def _upright(frame: Frame, degrees: int) -> Frame:
    """Applies the display rotation that phones record (counter-clockwise degrees)."""
    return np.ascontiguousarray(np.rot90(frame, degrees // 90)) if degrees % 360 else frame


def _device_format(source: str) -> str | None:
    """How FFmpeg must be told that the source is a camera."""
    return "v4l2" if sys.platform == "linux" and source.startswith("/dev/video") else None


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    """Sort key by which frame2 comes before frame10."""
    # Decimals alone: int() takes no superscripts, which count as digits.
    parts = re.split(r"(\d+)", path.name)
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def size_text(shape: tuple[int, ...]) -> str:
    """Height x width of a frame, for messages."""
    return f"{shape[0]}x{shape[1]}"


def reason(error: BaseException) -> str:
    """The system's words, without error numbers and repeated file names."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__).splitlines()[0]
