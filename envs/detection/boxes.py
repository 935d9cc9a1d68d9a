"""Boxes as NumPy arrays, xyxy in pixels with exclusive right and bottom edges.

Shape suffixes: L pairs of boxes; a trailing 4 is a box.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def paired_overlap(a_L4: NDArray, b_L4: NDArray) -> NDArray:
    """IoU (L,) of boxes pair by pair, in the precision of the boxes; 0 where both are empty."""
    shared_L = area(np.concatenate((np.maximum(a_L4[:, :2], b_L4[:, :2]), np.minimum(a_L4[:, 2:], b_L4[:, 2:])), 1))
    return shared_L / np.maximum(area(a_L4) + area(b_L4) - shared_L, 1e-9)


def area(boxes_L4: NDArray) -> NDArray:
    """Areas (L,); 0 for a box whose edges are in the wrong order."""
    return np.prod(np.clip(boxes_L4[:, 2:] - boxes_L4[:, :2], 0, None), axis=1)
