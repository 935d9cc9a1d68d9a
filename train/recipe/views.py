"""Random views of labelled frames: what all trainings of detectors do to pixels and boxes.

Shape suffixes: B frames, H height, W width, K objects; a trailing 4 is a box.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from envs.task import Target

MIN_LEFT = 0.4
"""Least share of an object's box that a cut leaves of it, if it still counts."""


def uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    """A random number between two."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def recolour(frames_BHWC: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 RGB frames with another brightness, contrast and tint."""
    tint = 1 + 0.1 * torch.randn(3, generator=generator)
    gain, bias = uniform(generator, 0.7, 1.4), uniform(generator, -12.0, 12.0)
    return (frames_BHWC.float() * (gain * tint) + bias).clamp(0, 255).to(torch.uint8)


def cut(target: Target, window: tuple[int, int, int, int], least_side: float) -> Target:
    """The objects in a window of a frame, boxes in pixels of the window and cut at its edges.

    Those of which less than 40 % is left are gone.

    Args:
        target: Boxes and labels.
        window: Left, top, width and height.
        least_side: Shortest side, in pixels, of the box of an object that still counts.
    """
    left, top, width, height = window
    boxes_K4 = target["boxes"] - torch.tensor([left, top, left, top], dtype=torch.float32)
    area_K = (boxes_K4[:, 2:] - boxes_K4[:, :2]).prod(1)
    boxes_K4 = torch.minimum(boxes_K4.clamp_min(0), torch.tensor([width, height] * 2, dtype=torch.float32))
    size_K2 = (boxes_K4[:, 2:] - boxes_K4[:, :2]).clamp_min(0)
    kept_K = (size_K2.prod(1) >= MIN_LEFT * area_K) & (size_K2.amin(1) >= least_side)
    return {"boxes": boxes_K4[kept_K], "labels": target["labels"][kept_K]}


def flip(frames_BHWC: Tensor, targets: list[Target]) -> tuple[Tensor, list[Target]]:
    """Mirror images of frames (B, H, W, 3), and of the boxes in their targets."""
    width = frames_BHWC.shape[2]
    mirrored: list[Target] = []
    for target in targets:
        x1, y1, x2, y2 = target["boxes"].unbind(-1)
        mirrored.append({**target, "boxes": torch.stack((width - x2, y1, width - x1, y2), -1)})
    return frames_BHWC.flip(2), mirrored


def rarity_weights(labels: Sequence[Tensor], classes: int) -> Tensor:
    """How often each frame is to be drawn, given the labels of its objects: more often with rare classes."""
    counts = torch.stack([torch.bincount(labels_K, minlength=classes).clamp(max=1) for labels_K in labels])
    rarity_C = (counts.sum(0).float().mean() / counts.sum(0).clamp_min(1)).sqrt()
    return 0.3 + (counts * rarity_C).amax(1)
