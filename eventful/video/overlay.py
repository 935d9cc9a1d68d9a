"""Draws what a model sees and what a policy chose into a frame: boxes, token mask, a header line.

Shape suffixes: R rows and C columns of the token grid, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from eventful.video.frames import Frame

Mask = NDArray[np.floating[Any]] | NDArray[np.bool_]

MIN_HEIGHT = 480
"""Smaller frames are enlarged by a whole factor: text needs pixels."""

TINT = (255, 140, 0)
TINT_STRENGTH = 0.45
OUTLINE = (255, 200, 60)
INK, PAPER = (255, 255, 255), (0, 0, 0)
COLOURS = (
    (80, 200, 255), (120, 255, 120), (255, 110, 110), (255, 240, 90),
    (220, 140, 255), (90, 255, 220), (255, 170, 210), (190, 190, 255),
)  # fmt: skip


def annotate(
    frame: Frame,
    predictions: Sequence[dict[str, Any]] = (),
    mask_RC: Mask | None = None,
    header: str = "",
    class_names: Sequence[str] = (),
) -> Frame:
    """A frame with everything drawn in; the given frame stays as it is.

    Args:
        frame: uint8 RGB (H, W, 3).
        predictions: Dicts with `label` and `score`, and with `box` [x1, y1, x2, y2] in pixels of the frame for
            detections. Those without a box are listed below the header; other dicts are left out.
        mask_RC: Whether each cell of the token grid was updated, or the share of the gates that updated it (0 to 1).
        header: Line of text above the picture.
        class_names: Names of the classes, each of which gets a colour; all other labels share one.

    Returns:
        uint8 RGB, the frame's size times a whole factor.
    """
    scale = max(-(-MIN_HEIGHT // frame.shape[0]), 1)
    image = Image.fromarray(frame if scale == 1 else frame.repeat(scale, 0).repeat(scale, 1))
    rate_RC = None if mask_RC is None else np.asarray(mask_RC, dtype=np.float32)
    if rate_RC is not None:
        image.paste(TINT, mask=_weights(rate_RC, image.size))
    pen = ImageDraw.Draw(image, "RGBA")
    font = _font(max(image.height // 36, 13))
    if rate_RC is not None:
        _outline(pen, rate_RC > 0.5, image.size)
    top = _line_height(pen, font) if header else 0
    for found in (p for p in predictions if "box" in p):
        _box(pen, found, scale, font, _colour(found["label"], class_names), (image.width, top))
    lines = [header] if header else []
    lines += [f"{p['label']} {p['score']:.2f}" for p in predictions if "label" in p and "box" not in p]
    _text_block(pen, lines, font, image.width)
    return np.asarray(image)


def _weights(mask_RC: NDArray[np.float32], size: tuple[int, int]) -> Image.Image:
    """How strongly each pixel is tinted: by the rate of its cell."""
    weight_RC = np.rint(255 * TINT_STRENGTH * mask_RC).astype(np.uint8)
    rows = np.arange(size[1]) * mask_RC.shape[0] // size[1]
    columns = np.arange(size[0]) * mask_RC.shape[1] // size[0]
    return Image.fromarray(weight_RC[rows].take(columns, axis=1))


def _outline(pen: ImageDraw.ImageDraw, chosen_RC: NDArray[np.bool_], size: tuple[int, int]) -> None:
    """Draws the border of the chosen region: the edges between a chosen cell and one that is not."""
    rows, columns = chosen_RC.shape
    # The first pixel of a cell is the smallest x with x * columns // width == cell.
    x = [-(-size[0] * c // columns) for c in range(columns + 1)]
    y = [-(-size[1] * r // rows) for r in range(rows + 1)]
    padded = np.pad(chosen_RC, 1)
    for r, c in np.argwhere(padded[1:, :] != padded[:-1, :]):
        pen.line([(x[c - 1], y[r]), (x[c], y[r])], fill=OUTLINE, width=2)
    for r, c in np.argwhere(padded[:, 1:] != padded[:, :-1]):
        pen.line([(x[c], y[r - 1]), (x[c], y[r])], fill=OUTLINE, width=2)


def _box(
    pen: ImageDraw.ImageDraw,
    found: dict[str, Any],
    scale: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    colour: tuple[int, int, int],
    limits: tuple[int, int],
) -> None:
    """A box with its label, which keeps clear of the right border and of the header: `limits` are (right, top)."""
    x1, y1, x2, y2 = (float(value) * scale for value in found["box"])
    pen.rectangle((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), outline=colour, width=3)
    text = f"{found['label']} {found['score']:.2f}"
    left, _, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom + 4
    x = min(max(x1, 0), max(limits[0] - width, 0))
    y = y1 - height if y1 - height >= limits[1] else max(y1, limits[1])
    pen.rectangle((x, y, x + width, y + height), fill=(*colour, 220))
    pen.text((x + 3, y + 1), text, font=font, fill=PAPER)


def _text_block(
    pen: ImageDraw.ImageDraw, lines: Sequence[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> None:
    line_height = _line_height(pen, font)
    for k, line in enumerate(lines):
        right = width if k == 0 else int(pen.textlength(line, font=font)) + 12
        pen.rectangle((0, k * line_height, right, (k + 1) * line_height - 1), fill=(*PAPER, 170))
        pen.text((6, k * line_height + 2), line, font=font, fill=INK)


def _line_height(pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return int(pen.textbbox((0, 0), "Ag|", font=font)[3]) + 6


def _colour(label: str, class_names: Sequence[str]) -> tuple[int, int, int]:
    index = list(class_names).index(label) if label in class_names else len(class_names)
    return COLOURS[index % len(COLOURS)]


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
