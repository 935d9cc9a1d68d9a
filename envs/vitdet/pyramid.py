"""The simple feature pyramid: five maps of equal width from the last map of a plain backbone.

Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (2022), section 3.

Shape suffixes: B streams, C channels of the pyramid, D channels of the backbone, Y rows, X columns.
"""

from __future__ import annotations

import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

CHANNELS = 256
"""C of the published models."""

STRIDES = (4, 8, 16, 32, 64)
"""Pixels from place to place in the levels p2 to p6, for a backbone with patches of 16."""


class SimplePyramid(nn.Module):
    """Maps of strides 4, 8, 16, 32 and 64, the last of which is every second pixel of the one before.

    Args:
        dim: D.
        channels: C.
    """

    def __init__(self, dim: int, channels: int = CHANNELS) -> None:
        super().__init__()
        double = nn.ConvTranspose2d(dim, dim // 2, 2, 2), nn.ConvTranspose2d(dim // 2, dim // 4, 2, 2)
        self.stages = nn.ModuleList(
            [
                nn.Sequential(double[0], _norm(dim // 2), nn.GELU(), double[1], *_lateral(dim // 4, channels)),
                nn.Sequential(nn.ConvTranspose2d(dim, dim // 2, 2, 2), *_lateral(dim // 2, channels)),
                nn.Sequential(*_lateral(dim, channels)),
                nn.Sequential(nn.MaxPool2d(2, 2), *_lateral(dim, channels)),
            ]
        )

    def forward(self, x_BDYX: Tensor) -> list[Tensor]:
        """Features of the backbone to maps (B, C, ...), finest first."""
        levels = [stage(x_BDYX) for stage in self.stages]
        return [*levels, F.max_pool2d(levels[-1], 1, 2)]


def _lateral(before: int, channels: int) -> list[nn.Module]:
    """What each level ends with."""
    return [
        nn.Conv2d(before, channels, 1, bias=False),
        _norm(channels),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        _norm(channels),
    ]


def _norm(channels: int) -> nn.Module:
    """A layer norm over the channels of each pixel."""
    return LayerNorm2d(channels, eps=1e-6)
