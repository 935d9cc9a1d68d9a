"""Boxes of the two-stage detector: anchors, decoding, clipping, and pooling of features by box.

Ren et al., "Faster R-CNN" (2015); Lin et al., "Feature Pyramid Networks" (2017), equation 1; He et al., "Mask R-CNN"
(2017), section 3. torchvision has the operators. Its anchor generator and its pooling over several levels are left
aside, because they round anchors and pool without the shift by half a pixel.

Shape suffixes: Y rows, X columns, A anchors, K boxes, C channels, S side of a pooled map; a trailing 4 is a box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import roi_align

from envs.vitdet.pyramid import STRIDES

ASPECT_RATIOS = (0.5, 1.0, 2.0)
"""Height over width of the anchors at a place, in this order."""

ANCHOR = 8.0
"""Side of the square anchor of a level, in strides, of the published models."""

_FINEST, _COARSEST = 2, 5
"""Levels that boxes are pooled from."""


def anchors(sizes: Sequence[tuple[int, int]], device: torch.device, side: float = ANCHOR) -> list[Tensor]:
    """Anchors (Y * X * A, 4) of each level, xyxy in pixels; they are centred at the corners of the places.

    Args:
        sizes: (rows, columns) of the levels, finest first.
        device: Where to make them.
        side: Side of the square anchor of a level, in strides.
    """
    return [_level_anchors(size, stride, side, device) for size, stride in zip(sizes, STRIDES, strict=True)]


def _level_anchors(size: tuple[int, int], stride: int, side: float, device: torch.device) -> Tensor:
    area = float((side * stride) ** 2)
    widths = [math.sqrt(area / ratio) for ratio in ASPECT_RATIOS]
    halves = [(width / 2, ratio * width / 2) for width, ratio in zip(widths, ASPECT_RATIOS, strict=True)]
    base_A4 = torch.tensor([(-w, -h, w, h) for w, h in halves], device=device)
    y, x = torch.meshgrid(*(torch.arange(side, device=device) * float(stride) for side in size), indexing="ij")
    return (torch.stack([x, y, x, y], -1).unsqueeze(2) + base_A4).reshape(-1, 4)


def decode(deltas: Tensor, boxes_K4: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """Boxes moved and scaled by deltas.

    Args:
        deltas: (K, 4) or (K, 4 * classes), class by class; shifts of the centre in units of the box, logarithms of
            the scales, which are bounded by log(1000 / 16).
        boxes_K4: Boxes that they refer to.
        weights: Numbers that the four deltas of a box are divided by.

    Returns:
        Boxes shaped like the deltas.
    """
    return BoxCoder(weights).decode_single(deltas, boxes_K4)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """xyxy boxes (..., 4) cut at the edges of a canvas of (height, width)."""
    height, width = size
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))


def is_solid(boxes_K4: Tensor) -> Tensor:
    """Whether boxes have a width and a height (K,)."""
    return (boxes_K4[:, 2] > boxes_K4[:, 0]) & (boxes_K4[:, 3] > boxes_K4[:, 1])


def level_of(boxes_K4: Tensor) -> Tensor:
    """The level (K,), 2 to 5, that each box is pooled from: 4 for 224 x 224 pixels, one less for a quarter of that."""
    area_K = (boxes_K4[:, 2] - boxes_K4[:, 0]) * (boxes_K4[:, 3] - boxes_K4[:, 1])
    return torch.floor(4 + torch.log2(area_K.sqrt() / 224 + 1e-8)).clamp(_FINEST, _COARSEST).long()


def pool(levels: Sequence[Tensor], boxes: Sequence[Tensor], side: int) -> Tensor:
    """Features in boxes (K, C, S, S), each from the level that suits its size; K boxes of all streams, one by one.

    Args:
        levels: Maps (B, C, Y, X), finest first; those that no box is pooled from may follow.
        boxes: xyxy boxes of each stream.
        side: S.
    """
    boxes_K4 = torch.cat(list(boxes))
    stream_K = torch.cat([torch.full((len(one),), float(b), device=one.device) for b, one in enumerate(boxes)])
    rois_K5 = torch.cat([stream_K[:, None], boxes_K4], 1)
    level_K = level_of(boxes_K4)
    pooled_KCSS = levels[0].new_zeros(len(boxes_K4), levels[0].shape[1], side, side)
    for level in range(_FINEST, _COARSEST + 1):
        index = (level_K == level).nonzero().squeeze(1)
        x_BCYX, scale = levels[level - _FINEST], 1 / STRIDES[level - _FINEST]
        # In half precision, boxes would be off by pixels.
        exact_BCYX = x_BCYX.to(torch.promote_types(x_BCYX.dtype, torch.float32))
        rois = rois_K5[index].to(exact_BCYX.dtype)
        found_KCSS = roi_align(exact_BCYX, rois, side, scale, sampling_ratio=0, aligned=True)
        pooled_KCSS.index_copy_(0, index, found_KCSS.to(x_BCYX.dtype))
    return pooled_KCSS
