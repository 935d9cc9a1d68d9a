"""A picture file, or a folder of them, as a video."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

from eventful.errors import VideoError
from eventful.video.frames import DEFAULT_FPS, Frame, FrameReader, TimedFrame, size_text
from eventful.video.pictures import IMAGE_SUFFIXES, UNREAD_SUFFIXES, picture_count, pictures_of

_FILMS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".ts", ".webm")
"""What files end in that somebody may have meant by a folder of them."""


def images_in(folder: Path) -> list[Path]:
    """The images of a folder in natural order; hidden files are left out.

    Raises:
        VideoError: If pictures that cannot be read lie among them.
    """
    files = [p for p in folder.iterdir() if not p.name.startswith(".")]
    images = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
    # Beside a picture of the same name it is another version of it, such as a camera's raw data.
    unread = [p for p in files if p.suffix.lower() in UNREAD_SUFFIXES and p.stem not in {q.stem for q in images}]
    if images and unread:
        raise VideoError(
            f"folder {folder} has {len(unread)} pictures that cannot be read, such as {min(unread).name}, among "
            f"{len(images)} that can: frames would be missing. Convert them to JPEG or PNG, or take them out"
        )
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
            film = next((path for path in sorted(source.iterdir()) if path.suffix.lower() in _FILMS), None)
            hint = "" if film is None else f"; a film is given by its own path, such as {film}"
            raise VideoError(f"folder {source} has no images ({kinds}){hint}")
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


def _natural(path: Path) -> list[tuple[bool, Decimal, str]]:
    """Sort key by which frame2 comes before Frame10, and 1700000000.25 before 1700000000.3."""
    # Seconds of a clock have decimals. ASCII alone: superscripts count as digits, and are no numbers.
    parts = re.split(r"(\d{9,}\.\d+|\d+)", path.name.casefold(), flags=re.ASCII)
    numbers = [(False, Decimal(part), part) if k % 2 else (True, Decimal(0), part) for k, part in enumerate(parts)]
    return [*numbers, (True, Decimal(0), path.name)]
