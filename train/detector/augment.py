"""Random views of labelled frames for training the detector: mirror, zoomed crop, brightness and colour.

Shape suffixes: B frames, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from envs.doom.labels import MIN_SIDE
from envs.task import Target
from train.recipe.views import cut, flip, recolour, uniform

_CROP_SHARE = 0.6
_SMALLEST_CROP = 0.6


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
        if uniform(generator) < 0.5:
            frame_1HWC, (view,) = flip(frame_1HWC, [view])
        if uniform(generator) < _CROP_SHARE:
            frame_1HWC, view = _crop(frame_1HWC, view, generator)
        views.append(recolour(frame_1HWC, generator))
        labels.append(view)
    return torch.cat(views), labels


def _crop(frame_1HWC: Tensor, target: Target, generator: torch.Generator) -> tuple[Tensor, Target]:
    """A window of the frame, enlarged to the frame's size."""
    height, width = frame_1HWC.shape[1:3]
    scale = uniform(generator, _SMALLEST_CROP)
    h, w = round(height * scale), round(width * scale)
    top, left = int(uniform(generator) * (height - h)), int(uniform(generator) * (width - w))
    window = frame_1HWC[:, top : top + h, left : left + w].permute(0, 3, 1, 2).float()
    enlarged = F.interpolate(window, (height, width), mode="bilinear", align_corners=False)
    view = cut(target, (left, top, w, h), MIN_SIDE * scale)
    stretch = torch.tensor([width / w, height / h]).repeat(2)
    return enlarged.round().to(torch.uint8).permute(0, 2, 3, 1), {**view, "boxes": view["boxes"] * stretch}
