"""IoU of boxes as tensors, pair by pair, with gradients.

Shape suffixes: a trailing 4 is a box, xyxy.
"""

from __future__ import annotations

import torch
from torch import Tensor


def paired_iou(a_4: Tensor, b_4: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU of boxes, pair by pair, over any leading dimensions."""
    area_a = (a_4[..., 2:] - a_4[..., :2]).clamp_min(0).prod(-1)
    area_b = (b_4[..., 2:] - b_4[..., :2]).clamp_min(0).prod(-1)
    low, high = torch.maximum(a_4[..., :2], b_4[..., :2]), torch.minimum(a_4[..., 2:], b_4[..., 2:])
    shared = (high - low).clamp_min(0).prod(-1)
    union = (area_a + area_b - shared).clamp_min(1e-6)
    low, high = torch.minimum(a_4[..., :2], b_4[..., :2]), torch.maximum(a_4[..., 2:], b_4[..., 2:])
    hull = (high - low).clamp_min(0).prod(-1).clamp_min(1e-6)
    iou = shared / union
    return iou, iou - (hull - union) / hull
