"""Frames of whatever FFmpeg opens: a file, a stream address, a camera.

A video that breaks yields the frames before the fault, then raises `VideoError`. A live source loses packets now and
then: there the damaged packets are left out and counted.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from av.error import FFmpegError
from av.format import Flags

from eventful.errors import VideoError
from eventful.video.display import as_displayed, warn_of_what_stays
from eventful.video.frames import DEFAULT_FPS, Frame, FrameReader, TimedFrame, reason, size_text
from eventful.video.opening import open_source
from eventful.video.timing import FrameClock, plausible_fps

DURATION_SLACK_S = 0.5


class StreamReader(FrameReader):
    """Frames of a source that PyAV opens.

    Args:
        source: Video file, stream address or camera device.
        live: Whether damaged packets are left out instead of ending with an error.

    Attributes:
        live: Whether the source is live: it can be read once only.
        has_sound: Whether there is a sound track beside the film.
        clock: Times of the frames of the latest iteration.
    """

    def __init__(self, source: str, live: bool = False) -> None:
        self.source, self.live = source, live
        self._connected: Any = None
        with contextlib.ExitStack() as closing:
            container = closing.enter_context(open_source(source))
            stream = _film(container)
            self.count = stream.frames or None
            self.has_sound = bool(container.streams.audio)
            rates = [stream.average_rate, stream.guessed_rate]
            if container.format.flags & Flags.no_timestamps.value:
                # What looks like a mean is FFmpeg's default there; the codec may know better.
                rates.reverse()
            plausible = (plausible_fps(rate, stream.time_base) for rate in rates)
            self.fps = next((fps for fps in plausible if fps), DEFAULT_FPS)
            if live:
                # Not every server takes a second connection, and what it sends meanwhile would be lost.
                closing.pop_all()
                self._connected = container
        self.clock = FrameClock(self.fps)

    def __iter__(self) -> Iterator[Frame]:
        return (frame for frame, _ in self.timed())

    def timed(self) -> Iterator[TimedFrame]:
        """Yields frames with their times by the source's clock; raises as iterating does."""
        self.clock = FrameClock(self.fps)
        first: tuple[int, ...] = ()
        name = f"video {self.source}"
        container, self._connected = self._connected or open_source(self.source), None
        with container:
            aspect = _film(container).sample_aspect_ratio
            for k, picture in enumerate(self._decoded(container)):
                frame = as_displayed(picture, aspect, name)
                first = first or frame.shape
                if frame.shape != first:
                    sizes = f"from {size_text(first)} to {size_text(frame.shape)} (height x width)"
                    raise VideoError(f"{name} changes its size at frame {k} {sizes}")
                if not k:
                    warn_of_what_stays(picture, name)
                yield TimedFrame(frame, self.clock.at(_stamp(picture, container.format.name)))

    def _decoded(self, container: Any) -> Iterator[Any]:
        """Decoded frames; a damaged packet, a decoding error or an early end is an error after the frames before it."""
        stream = _film(container)
        decoded = packets = 0
        end_s = 0.0
        fault: Exception | None = None
        for packet in until_fault(container.demux(stream)):
            fault = packet if isinstance(packet, Exception) else None
            for frame in () if fault else until_fault(_decode(packet)):
                if isinstance(frame, Exception):
                    fault = frame
                    break
                decoded += 1
                yield frame
            if fault and self.live and fault is not packet:
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


def until_fault(items: Iterator[Any]) -> Iterator[Any]:
    """The items; an error of FFmpeg that ends them becomes the last item."""
    try:
        yield from items
    except (FFmpegError, OSError, ValueError) as error:
        yield error


def _stamp(picture: Any, container: str) -> Fraction | None:
    """When a picture is shown by the container's clock, in seconds; where it does not say, when it was decoded.

    AVI never says; what FFmpeg gives instead is wrong where pictures are stored in another order than shown.
    """
    ticks = picture.dts if picture.pts is None or container == "avi" else picture.pts
    return None if ticks is None or not picture.time_base else ticks * picture.time_base


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
    if container.format.name == "avi" and stream.duration:
        # It counts repeated frames, too, for which it has no packets.
        promised_s = float(stream.duration * stream.time_base)
        return f"{promised_s:.1f} s" if end_s < promised_s - DURATION_SLACK_S else None
    if stream.frames and packets < stream.frames:
        return f"{stream.frames} frames"
    tag = re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))
    promised_s = 0.0 if tag is None else int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
    return f"{promised_s:.1f} s" if end_s < promised_s - DURATION_SLACK_S else None
