"""Random views of labelled frames for training the detector: mirror, zoomed crop, brightness and colour.

Shape suffixes: B frames, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from envs.doom.boxes import flip
from envs.doom.labels import MIN_SIDE
from envs.task import Target

_CROP_SHARE = 0.6
_SMALLEST_CROP = 0.6
_MIN_LEFT = 0.4


def augment(frames_BHWC: Tensor, targets: list[Target], generator: torch.Generator) -> tuple[Tensor, list[Target]]:
    """A random view of each frame.

    Args:
        frames_BHWC: uint8 RGB frames.
        targets: Boxes in pixels of the frame, and labels.
        generator: Random generator of the choices.

    Returns:
        uint8 frames of the same shape and their targets. Boxes that a crop left less than 40 % of, or too
        small to count, are gone.
    """
    views, labels = [], []
    for k, target in enumerate(targets):
        frame_1HWC, view = frames_BHWC[k : k + 1], target
        if _uniform(generator) < 0.5:
            frame_1HWC, (view,) = flip(frame_1HWC, [view])
        if _uniform(generator) < _CROP_SHARE:
            frame_1HWC, view = _crop(frame_1HWC, view, generator)
        views.append(_recolour(frame_1HWC, generator))
        labels.append(view)
    return torch.cat(views), labels


def _uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _crop(frame_1HWC: Tensor, target: Target, generator: torch.Generator) -> tuple[Tensor, Target]:
    """A window of the frame, enlarged to the frame's size."""
    height, width = frame_1HWC.shape[1:3]
    scale = _uniform(generator, _SMALLEST_CROP)
    h, w = round(height * scale), round(width * scale)
    top, left = int(_uniform(generator) * (height - h)), int(_uniform(generator) * (width - w))
    window = frame_1HWC[:, top : top + h, left : left + w].permute(0, 3, 1, 2).float()
    enlarged = F.interpolate(window, (height, width), mode="bilinear", align_corners=False)
    boxes = target["boxes"] - torch.tensor([left, top, left, top], dtype=torch.float32)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    boxes = torch.minimum(boxes.clamp_min(0), torch.tensor([w, h, w, h], dtype=torch.float32))
    size = (boxes[:, 2:] - boxes[:, :2]).clamp_min(0)
    kept = (size.prod(1) >= _MIN_LEFT * area) & (size.amin(1) / scale >= MIN_SIDE)
    stretch = torch.tensor([width / w, height / h]).repeat(2)
    view = {"boxes": boxes[kept] * stretch, "labels": target["labels"][kept]}
    return enlarged.round().to(torch.uint8).permute(0, 2, 3, 1), view


def _recolour(frame_1HWC: Tensor, generator: torch.Generator) -> Tensor:
    tint = 1 + 0.1 * torch.randn(3, generator=generator)
    gain, bias = _uniform(generator, 0.7, 1.4), _uniform(generator, -12.0, 12.0)
    return (frame_1HWC.float() * (gain * tint) + bias).clamp(0, 255).to(torch.uint8)
