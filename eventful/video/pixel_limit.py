"""How many pixels a picture may have: a file of a few kilobytes can unpack to gigabytes."""

from __future__ import annotations

import os

from eventful.errors import UserError, VideoError

DEFAULT_LIMIT = 2**26
"""67 million pixels: twice a frame of 8K video. Decoding takes about ten bytes for each."""

VARIABLE = "EVENTFUL_MAX_PIXELS"


def pixel_limit() -> int:
    """Largest number of pixels of a picture: `$EVENTFUL_MAX_PIXELS`, or `DEFAULT_LIMIT`.

    Raises:
        UserError: If the variable is no number above 0.
    """
    text = os.environ.get(VARIABLE, str(DEFAULT_LIMIT))
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{VARIABLE}={text}: the largest number of pixels of a picture is a whole number above 0")
    return int(text)


def check_pixels(width: int, height: int, where: str) -> None:
    """Checks that a picture is not too large.

    Args:
        width: Width in pixels.
        height: Height in pixels.
        where: What the picture is, such as `image a.png`, with which the message begins.

    Raises:
        VideoError: If it is.
    """
    limit = pixel_limit()
    if width * height > limit:
        raise VideoError(
            f"{where} has {height}x{width} pixels (height x width), more than the limit of {limit:,}: "
            f"set {VARIABLE}={width * height} to read it nevertheless"
        )
