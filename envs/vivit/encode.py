"""The spatial part of a ViViT over the steps of a batch of views, dense or eventful.

The views of a batch are streams and their steps frames: the first step is the flush, and every view selects its own
tokens (Eventful Transformers, section 5.2). Steps are made one at a time, so that a video's views never are in memory
all at once.

Shape suffixes: V views, S steps, H height, W width, D channels of a token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eventful import EventfulModel
from eventful.macs.ledger import FrameMacs


@dataclass(frozen=True)
class Encoded:
    """What the temporal part takes, and what it cost.

    Attributes:
        tokens_VSD: Class token of each step of each view.
        macs: MACs of every step, one entry a step; empty for a dense model.
    """

    tokens_VSD: Tensor
    macs: tuple[FrameMacs, ...] = ()

    @property
    def share_V(self) -> Tensor:
        """Share of the dense MACs that each view took, the flush included; 1 for a dense model."""
        if not self.macs:
            return torch.ones(len(self.tokens_VSD), dtype=torch.float64)
        return torch.stack([step.share for step in self.macs]).mean(0)


def encode(spatial: nn.Module, steps: Iterable[Tensor]) -> Encoded:
    """Runs the spatial part over the steps of a batch of views.

    Args:
        spatial: The spatial part of a `ViViT`, or that wrapped by `eventful.wrap`, whose state is reset first.
        steps: Tubelets of all views (V, 6, H, W), one step after the other.
    """
    tokens: list[Tensor] = []
    macs: list[FrameMacs] = []
    if isinstance(spatial, EventfulModel):
        spatial.reset()
    for step in steps:
        tokens.append(spatial(step))
        if isinstance(spatial, EventfulModel):
            macs.append(spatial.macs)
    return Encoded(torch.stack(tokens, 1), tuple(macs))
