"""A box in a frame, given by the user, and the tokens that it touches.

Shape suffixes: N patch tokens, Y rows, X columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eventful.errors import UserError


def cells_in_box(box: Sequence[float], frame_size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Part of each patch token's cell that lies in a box.

    Args:
        box: [x1, y1, x2, y2] in pixels of the frame.
        frame_size: (height, width) of the frame.
        grid: (rows, columns) of patch tokens, which cover the frame evenly.

    Returns:
        (N,) float32 from 0 to 1, row by row.

    Raises:
        UserError: If the box is no box, is empty, reaches out of the frame, or leaves no token outside of it.
    """
    height, width = frame_size
    what, frame = f"box {list(box)}", f"the video's frames, which are {width}x{height}"
    if len(box) != 4 or any(isinstance(x, bool) or not isinstance(x, int | float) for x in box):
        raise UserError(f"{what} must be four numbers [x1, y1, x2, y2], in pixels of {frame}")
    x1, y1, x2, y2 = box
    if not (x1 < x2 and y1 < y2):
        raise UserError(f"{what} is empty: [x1, y1, x2, y2] with x1 < x2 and y1 < y2 is needed")
    if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
        raise UserError(f"{what} reaches out of {frame}: it must lie in [0, 0, {width}, {height}]")
    rows_Y, columns_X = _part(y1, y2, height, grid[0]), _part(x1, x2, width, grid[1])
    inside_N = (rows_Y[:, None] * columns_X).flatten()
    if bool((inside_N > 0).all()):
        raise UserError(f"{what} touches all tokens of {frame}: nothing is left to tell what is in it from")
    return inside_N


def _part(low: float, high: float, length: int, cells: int) -> Tensor:
    """Part of each of `cells` equal cells of [0, length] that lies in [low, high]."""
    border = torch.arange(cells + 1, dtype=torch.float64) * length / cells
    overlap = border[1:].clamp(max=high) - border[:-1].clamp(min=low)
    return (overlap.clamp(min=0) * cells / length).float()
