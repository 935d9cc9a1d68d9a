"""Picture files: all pictures of one, each with the time for which it is shown.

An animation (GIF, WebP, APNG, AVIF) and a TIFF of several pages give every picture. What else a photograph's file holds
is not part of the film: thumbnails, gain maps, an animation's stand-in for programs that show no animations.

Samples of up to 16 bits are brought to 8. Transparency is laid over black. EXIF orientation is applied.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from eventful.errors import VideoError
from eventful.video.display import over_black
from eventful.video.frames import Frame, reason
from eventful.video.pixel_limit import check_pixels

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF")
"""Pillow's names of what is read. Others stay closed: some of Pillow's readers run other programs (EPS)."""

IMAGE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jfif", ".png", ".apng", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".gif"),
        ".avif",
    }
)

UNREAD_SUFFIXES = frozenset(
    {
        *(".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".tga", ".exr", ".dpx", ".hdr", ".pfm", ".psd", ".svg"),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
    }
)
"""Pictures, too, but of kinds that folders of pictures cannot have."""

HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"hevc", b"hevx"})
"""Of which FFmpeg would give a single tile."""

STUTTER_MS, STUTTER_SHOWN_MS = 10, 100
"""Pictures of animations that are to be shown for so short a time are shown for so long, as browsers do it."""

TIFF_SUBFILE, TIFF_BITS, TIFF_PHOTOMETRIC = 254, 258, 262
REDUCED, WHITE_IS_ZERO = 1, 0
PHOTOGRAPHS = ("JPEG", "MPO")
"""Formats of which the first picture alone is meant; others in the file are previews, gain maps, another eye's view."""

PILLOW_ERRORS = (
    OSError, ValueError, SyntaxError, TypeError, LookupError, EOFError, struct.error, Image.DecompressionBombError
)  # fmt: skip
"""What Pillow raises for files that are damaged."""

DEEP_FORMATS = ("PNG", "PPM")
"""Formats whose samples of mode `I` are 16 bits wide; elsewhere their range is unknown."""


def is_picture(path: Path) -> bool:
    """Whether a file is a picture, by its suffix or its content. Motion JPEG begins as JPEG: the suffix decides.

    Raises:
        VideoError: If it is one of a kind that cannot be read.
    """
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    try:
        with _opened(path) as image:
            return image.format not in PHOTOGRAPHS
    except VideoError:
        pass
    head = b""
    with suppress(OSError), path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:] in HEIF_BRANDS:
        raise VideoError(f"{path} is a HEIF picture, which cannot be read: convert it to JPEG or PNG")
    return False


def pictures_of(path: Path) -> Iterator[tuple[Frame, float | None]]:
    """The pictures of a file.

    Args:
        path: The file.

    Yields:
        uint8 RGB (H, W, 3), and for how many seconds it is shown; None where the file does not say.

    Raises:
        VideoError: If the file cannot be read, is damaged or cut off (after the pictures before that), is too large, or
            its samples cannot be brought to 8 bits.
    """
    with _opened(path) as image:
        with _named_errors(path):
            numbers = _numbers(image)
        for number in numbers:
            with _named_errors(path):
                if not _turned_to(image, number):
                    if image.format == "GIF":
                        return
                    raise VideoError(f"image {path} is cut off after {number} of {_total(image)} pictures")
                if _is_reduced(image):
                    continue
                check_pixels(image.width, image.height, f"image {path}")
                picture = _to_rgb(image), _shown_s(image)
            yield picture


def picture_count(path: Path) -> int:
    """How many pictures a file says that it has.

    Raises:
        VideoError: If it cannot be read.
    """
    with _opened(path) as image, _named_errors(path):
        return 1 if image.format in PHOTOGRAPHS else _total(image)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A picture file that is open, nothing of it decoded yet."""
    if not path.is_file():
        # A pipe would be waited for without end.
        raise VideoError(f"image {path} is no regular file")
    pillows_limit = Image.MAX_IMAGE_PIXELS
    with _named_errors(path):
        Image.MAX_IMAGE_PIXELS = None
        try:
            image = Image.open(path, formats=_known_formats())
        finally:
            Image.MAX_IMAGE_PIXELS = pillows_limit
    with image:
        check_pixels(image.width, image.height, f"image {path}")
        yield image


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Turns what Pillow raises into a `VideoError`."""
    try:
        yield
    except VideoError:
        raise
    except UnidentifiedImageError as error:
        kinds = ", ".join(_known_formats())
        raise VideoError(f"image {path} cannot be read: its content is none of {kinds}") from error
    except PILLOW_ERRORS as error:
        raise VideoError(f"image {path} cannot be read: {reason(error)}") from error


@lru_cache(maxsize=1)
def _known_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this installation of Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _numbers(image: Any) -> Iterable[int]:
    """Numbers of the pictures that are frames, within the file."""
    if image.format in PHOTOGRAPHS:
        return range(1)
    if image.format == "GIF":
        # It counts its pictures by reading them all.
        return count()
    return range(int(getattr(image, "default_image", False)), _total(image))


def _total(image: Any) -> int:
    return int(getattr(image, "n_frames", 1))


def _turned_to(image: Any, number: int) -> bool:
    """Makes a picture the current one; whether there is such a one."""
    try:
        image.seek(number)
    except EOFError:
        return False
    return True


def _is_reduced(image: Any) -> bool:
    """Whether the page of a TIFF is a smaller version of another."""
    return image.format == "TIFF" and bool(image.tag_v2.get(TIFF_SUBFILE, 0) & REDUCED)


def _to_rgb(image: Any) -> Frame:
    """The current picture as uint8 RGB (H, W, 3)."""
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format in DEEP_FORMATS)
    if image.mode in ("I", "F") and not deep:
        kind = "floating-point numbers" if image.mode == "F" else "32-bit or signed numbers"
        raise VideoError(
            f"image {image.filename} has samples that are {kind}, and does not say which of them are black and white: "
            "store it with 8 or 16 bits a sample"
        )
    upright = ImageOps.exif_transpose(image)
    if deep:
        return _eight_bits(np.asarray(upright), *_deep_range(image))
    if upright.has_transparency_data:
        return over_black(upright.convert("RGBA"))
    return np.array(upright.convert("RGB"))


def _deep_range(image: Any) -> tuple[int, int]:
    """Values of black and white of a picture with more than 8 bits a sample."""
    if image.format != "TIFF":
        return 0, 2**16 - 1
    white = 2 ** int(image.tag_v2.get(TIFF_BITS, (16,))[0]) - 1
    return (white, 0) if image.tag_v2.get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO else (0, white)


def _eight_bits(gray_HW: NDArray[Any], black: int, white: int) -> Frame:
    """Samples from `black` to `white`, rounded to 0 to 255, as gray RGB."""
    span = abs(white - black)
    light_HW = np.abs(gray_HW.astype(np.int32) - black)
    gray8_HW = np.minimum((light_HW * 255 + span // 2) // span, 255).astype(np.uint8)
    return gray8_HW[..., None].repeat(3, axis=-1)


def _shown_s(image: Any) -> float | None:
    """For how many seconds the current picture is shown, once it is decoded."""
    ms = image.info.get("duration")
    if ms is None or _total(image) == 1:
        return None
    return (STUTTER_SHOWN_MS if ms <= STUTTER_MS else ms) / 1000
