"""A vision transformer as eventful inference sees it: embed, blocks, finish, head.

Shape suffixes: B streams, N tokens, D channels.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eventful.block import Block
from eventful.macs.counter import count_macs


class Backbone(abc.ABC):
    """Gives a model family one shape. Holds the model, never copies its weights.

    Attributes:
        vit: The wrapped model.
        dim: D.
        prefix: Number of class and register tokens.
    """

    vit: nn.Module
    dim: int
    prefix: int

    @abc.abstractmethod
    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of patch tokens for frames of (height, width)."""

    @abc.abstractmethod
    def blocks(self, grid: tuple[int, int]) -> Sequence[Block]:
        """The transformer blocks, for frames with this grid of patch tokens."""

    @abc.abstractmethod
    def embed(self, frame: Tensor) -> Tensor:
        """Frames (B, 3, H, W) to the tokens that enter the first block (B, N, D)."""

    @abc.abstractmethod
    def finish(self, tokens: Tensor) -> Tensor:
        """Token-wise: outputs of the last block (..., D) to final tokens, such as the last layer norm."""

    @abc.abstractmethod
    def features(self, tokens_BND: Tensor, size: tuple[int, int]) -> Tensor:
        """Final tokens of a whole frame to what the model's `forward_features` returns."""

    @abc.abstractmethod
    def head(self, features: Tensor) -> Any:
        """What `forward_features` returns to what `forward` returns."""

    def measure(self, frame: Tensor) -> tuple[float, float]:
        """MACs per stream of `embed` and of everything after the blocks, counted by running them once on a frame."""
        size = (frame.shape[-2], frame.shape[-1])
        blank = torch.zeros_like(frame[:1])
        tokens, embed = count_macs(self.embed, blank)
        _, head = count_macs(lambda: self.head(self.features(self.finish(tokens), size)))
        return embed, head
