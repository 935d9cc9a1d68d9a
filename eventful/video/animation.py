"""Writes frames as an animated picture (WebP or GIF), for pages that show no films."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from eventful.errors import VideoError
from eventful.video.frames import Frame

SUFFIXES = (".webp", ".gif")

MOST_BYTES = 2**30
"""Of all frames together: an animation is encoded as a whole, and they are held until then."""


class AnimationWriter:
    """Collects frames, and writes them when it is closed (`contextlib.closing`), whatever was the reason.

    Args:
        path: Path of the file, with one of `SUFFIXES`.
        fps: Frames per second, for frames that come without a time.

    Raises:
        VideoError: If the frames are too large together, or the file cannot be written.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        self.path, self._fps = Path(path), fps
        self._images: list[Image.Image] = []
        self._room = MOST_BYTES
        self._times: list[float] = []

    def write(self, frame: Frame, time: float | None = None) -> None:
        """Appends a frame, as `eventful.video.writer.VideoWriter.write` does."""
        if frame.nbytes > self._room:
            held = f"{len(self._images)} frames, {MOST_BYTES / 2**20:.0f} MiB"
            raise VideoError(f"animation {self.path} can have no more than {held}: write a film, such as .mp4")
        self._room -= frame.nbytes
        self._images.append(Image.fromarray(frame))
        self._times.append(len(self._times) / self._fps if time is None else time)

    def close(self) -> None:
        """Encodes and writes what there is; nothing if there are no frames."""
        if not self._images:
            return
        ends = [*self._times[1:], self._times[-1] + 1 / self._fps]
        durations = [max(round(1000 * (end - begin)), 1) for begin, end in zip(self._times, ends, strict=True)]
        first, *rest = self._images
        options: dict[str, Any] = {"quality": 60, "method": 4} if self.path.suffix.lower() == ".webp" else {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            first.save(self.path, save_all=True, append_images=rest, duration=durations, loop=0, **options)
        except OSError as error:
            raise VideoError(f"animation {self.path} cannot be written: {error}") from error
        finally:
            self._images = []
