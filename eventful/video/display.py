"""A decoded picture as it is to be seen: the pixels' shape, the display matrix and transparency are applied.

Shape suffixes: H height, W width.
"""

from __future__ import annotations

import warnings
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eventful.errors import VideoError
from eventful.video.frames import Frame
from eventful.video.pixel_limit import check_pixels

HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
"""Transfer functions of high dynamic range, by their numbers in H.273."""

SKEW = 0.01
"""Entries of a display matrix below this share of the largest are rounding errors (half a degree)."""


def as_displayed(picture: Any, pixel_aspect: Fraction | None, where: str) -> Frame:
    """A decoded picture as uint8 RGB (H, W, 3), upright, with square pixels, transparency laid over black.

    Args:
        picture: A picture that PyAV has decoded, of any pixel format.
        pixel_aspect: Width of a pixel over its height; None where the video does not say.
        where: What the picture is, such as `video a.mp4`, with which messages begin.

    Raises:
        VideoError: If the picture is larger than the limit, or turned by no multiple of 90 degrees.
    """
    width, height = _square_size(picture.width, picture.height, pixel_aspect)
    check_pixels(width, height, where)
    size: dict[str, Any] = {}
    if (width, height) != (picture.width, picture.height):
        size = {"width": width, "height": height, "interpolation": "BICUBIC"}
    if any(component.is_alpha for component in picture.format.components):
        rgb = over_black(Image.fromarray(picture.to_ndarray(format="rgba", **size)))
    else:
        rgb = picture.to_ndarray(format="rgb24", **size)
    return np.ascontiguousarray(_upright(rgb, display_matrix(picture), where))


def warn_of_what_stays(picture: Any, where: str) -> None:
    """Warns of what players may change when they show such pictures and what is read here as it is stored.

    Args:
        picture: A picture that PyAV has decoded.
        where: What it belongs to, such as `video a.mp4`, with which the warning begins.
    """
    if picture.interlaced_frame:
        warnings.warn(
            f"{where} is interlaced: what moves has combed edges. Deinterlace it (ffmpeg -i IN -vf bwdif OUT)",
            stacklevel=2,
        )
    if picture.color_trc in HDR_TRANSFERS:
        kind = HDR_TRANSFERS[picture.color_trc]
        warnings.warn(
            f"{where} has a high dynamic range ({kind}), which is not mapped to that of other films: its colours are "
            "pale or dark. Map its tones first (ffmpeg, filter tonemap)",
            stacklevel=2,
        )


def over_black(image: Image.Image) -> Frame:
    """An RGBA image on a black ground, as uint8 RGB (H, W, 3)."""
    ground = Image.new("RGB", image.size)
    ground.paste(image, mask=image.getchannel("A"))
    return np.array(ground)


def display_matrix(picture: Any) -> NDArray[np.float64]:
    """The 2 x 2 part of a picture's display matrix: (x, y) is shown at (x, y) @ matrix, y downwards."""
    try:
        found = [data for data in picture.side_data if data.type.name == "DISPLAYMATRIX"]
    except ValueError:
        # PyAV lists no side data at all where it does not know the kind of one of them; the angle it finds.
        turns = np.deg2rad(round(picture.rotation / 90) * 90)
        return np.array([[np.cos(turns), -np.sin(turns)], [np.sin(turns), np.cos(turns)]])
    if not found:
        return np.eye(2)
    return np.frombuffer(bytes(found[0]), np.int32).reshape(3, 3)[:2, :2] / 2.0**16


def _upright(rgb: Frame, matrix: NDArray[np.float64], where: str) -> Frame:
    """Turns and mirrors a picture by a display matrix."""
    largest = np.abs(matrix).max()
    if largest == 0:
        # Some writers leave the matrix empty.
        return rgb
    (a, b), (c, d) = np.where(np.abs(matrix) < SKEW * largest, 0, matrix)
    if a == d == 0 and b and c:
        rgb, across, down = rgb.transpose(1, 0, 2), c, b
    elif b == c == 0 and a and d:
        across, down = a, d
    else:
        angle = np.rad2deg(np.arctan2(c, a))
        raise VideoError(f"{where} is to be shown turned by {angle:.0f} degrees; only quarter turns can be read")
    return rgb[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


def _square_size(width: int, height: int, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """Width and height with square pixels: one side is stretched, as HTML's video element does, none is shrunk."""
    if not pixel_aspect or pixel_aspect == 1:
        return width, height
    if pixel_aspect > 1:
        return round(width * pixel_aspect), height
    return width, round(height / pixel_aspect)
