"""A picture file, or a folder of them, as a video."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from eventful.errors import VideoError
from eventful.video.frames import DEFAULT_FPS, Frame, FrameReader, TimedFrame, size_text
from eventful.video.pictures import IMAGE_SUFFIXES, picture_count, pictures_of


def images_in(folder: Path) -> list[Path]:
    """The images of a folder in natural order; hidden files are left out."""
    images = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    return sorted(images, key=_natural)


class PictureReader(FrameReader):
    """Pictures one after the other: those of animations for as long as they say, all others for 1 / fps seconds.

    Args:
        source: A picture file or a folder of them.
        fps: Frames per second; if None, what the first picture of an animation says, else 25.

    Raises:
        VideoError: If the folder has no images, or the file cannot be read.
    """

    def __init__(self, source: Path, fps: float | None = None) -> None:
        self.source = str(source)
        self._paths: Sequence[Path] = images_in(source) if source.is_dir() else [source]
        if not self._paths:
            kinds = ", ".join(sorted(IMAGE_SUFFIXES))
            raise VideoError(f"folder {source} has no images ({kinds})")
        self.count = len(self._paths) if source.is_dir() else picture_count(source)
        self.fps = fps or (DEFAULT_FPS if self.count == 1 or source.is_dir() else _first_fps(source))

    def __iter__(self) -> Iterator[Frame]:
        return (frame for frame, _ in self.timed())

    def timed(self) -> Iterator[TimedFrame]:
        """Yields frames with their times; raises as iterating does."""
        first: tuple[int, ...] = ()
        time = 0.0
        for path in self._paths:
            for frame, shown_s in pictures_of(path):
                first = first or frame.shape
                if frame.shape != first:
                    sizes = f"{size_text(frame.shape)} (height x width), the images before it are {size_text(first)}"
                    raise VideoError(f"image {path} is {sizes}")
                yield TimedFrame(frame, time)
                time += 1 / self.fps if shown_s is None else shown_s


def _first_fps(path: Path) -> float:
    """Frames per second by the first picture of a file."""
    shown_s = next((shown_s for _, shown_s in pictures_of(path)), None)
    return DEFAULT_FPS if shown_s is None else 1 / shown_s


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    """Sort key by which frame2 comes before frame10."""
    # Decimals alone: int() takes no superscripts, which count as digits.
    parts = re.split(r"(\d+)", path.name)
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]
