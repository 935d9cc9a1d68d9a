"""A camera that pans over a large picture, so that the motion of every frame is known to the pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PATCH = 8


def panorama(seed: int = 0, side: int = 256) -> Tensor:
    """A random picture (1, 3, side, side) with structure of all sizes."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for scale in (1, 4, 16, 64):
        noise = torch.randn(1, 3, side // scale, side // scale, generator=generator)
        layers.append(F.interpolate(noise, size=(side, side), mode="bilinear"))
    return torch.stack(layers).sum(0) / 2


def view(scene: Tensor, row: int, column: int, grid: tuple[int, int]) -> Tensor:
    """What the camera sees (1, 3, H, W) when its upper left corner is at a pixel of the scene."""
    return scene[..., row : row + grid[0] * PATCH, column : column + grid[1] * PATCH].contiguous()


def pan(steps: Sequence[tuple[int, int]], grid: tuple[int, int], seed: int = 0) -> list[Tensor]:
    """Frames of a camera that moves by so many rows and columns of pixels from each frame to the next."""
    scene, row, column = panorama(seed), 64, 64
    frames = [view(scene, row, column, grid)]
    for down, right in steps:
        row, column = row + down, column + right
        frames.append(view(scene, row, column, grid))
    return frames
