"""Masks on the grid of tokens, the box that a mask implies, and their overlaps.

Shape suffixes: B streams, Y rows, X columns.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def components(mask_BYX: Tensor) -> Tensor:
    """Connected components of masks; cells that touch at a corner are connected.

    Returns:
        int64 (B, Y, X): a number from 1 for each component of a mask, 0 outside.
    """
    cells = mask_BYX.shape[1] * mask_BYX.shape[2]
    number_BYX = torch.arange(1, cells + 1, device=mask_BYX.device).view(1, *mask_BYX.shape[1:]) * mask_BYX
    while True:
        # The largest number of a component floods it, one cell at a time.
        flooded = F.max_pool2d(number_BYX[:, None].double(), 3, stride=1, padding=1)[:, 0].long() * mask_BYX
        if torch.equal(flooded, number_BYX):
            return number_BYX
        number_BYX = flooded


def implied_box(probability_BYX: Tensor, mask_BYX: Tensor) -> tuple[Tensor, Tensor]:
    """Bounding box of the component that has the largest sum of probabilities.

    The sum, not the number of cells: of two things of some cells each, rounding would else decide.

    Args:
        probability_BYX: Of each cell.
        mask_BYX: Which cells count (bool).

    Returns:
        Boxes (B, 4), x1, y1, x2, y2 as parts of width and height, zeros for an empty mask, and the mean probability in
        the box's component (B,), 0 for an empty mask.
    """
    B, Y, X = mask_BYX.shape
    number_BN = components(mask_BYX).flatten(1)
    probability_BN = probability_BYX.float().flatten(1) * mask_BYX.flatten(1)
    sums = probability_BN.new_zeros(B, Y * X + 1).scatter_add(1, number_BN, probability_BN)
    best_B1 = sums.argmax(1, keepdim=True)
    chosen_BYX = ((number_BN == best_B1) & mask_BYX.flatten(1)).view(B, Y, X)
    y1, y2 = _extent(chosen_BYX.any(2))
    x1, x2 = _extent(chosen_BYX.any(1))
    box_B4 = torch.stack([x1 / X, y1 / Y, x2 / X, y2 / Y], 1)
    return box_B4, sums.amax(1) / chosen_BYX.flatten(1).sum(1).clamp(min=1)


def mask_iou(mask_BN: Tensor, other_BN: Tensor) -> Tensor:
    """Intersection over union (B,) of masks; 1 where both are empty."""
    union_B = (mask_BN | other_BN).sum(1)
    return torch.where(union_B > 0, (mask_BN & other_BN).sum(1) / union_B.clamp(min=1), 1.0)


def box_iou(box_B4: Tensor, other_B4: Tensor) -> Tensor:
    """Intersection over union (B,) of pairs of boxes; zeros stand for no box, and two of these have 1."""
    low, high = torch.maximum(box_B4[:, :2], other_B4[:, :2]), torch.minimum(box_B4[:, 2:], other_B4[:, 2:])
    common_B = (high - low).clamp(min=0).prod(1)
    union_B = (box_B4[:, 2:] - box_B4[:, :2]).prod(1) + (other_B4[:, 2:] - other_B4[:, :2]).prod(1) - common_B
    return torch.where(union_B > 0, common_B / union_B, 1.0)


def _extent(used_BL: Tensor) -> tuple[Tensor, Tensor]:
    """First used cell and the one after the last; 0 and 0 if none is."""
    length = used_BL.shape[1]
    place_L = torch.arange(length, device=used_BL.device)
    last_B = torch.where(used_BL, place_L + 1, 0).amax(1)
    return torch.where(used_BL, place_L, length).amin(1).clamp(max=last_B), last_B
