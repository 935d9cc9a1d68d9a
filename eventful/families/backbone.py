"""A vision transformer as eventful inference sees it: embed, blocks, finish, head.

Shape suffixes: B streams, N tokens, D channels.
"""

from __future__ import annotations

import abc
import operator
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from eventful.families.block import Block
from eventful.families.hooks import warn_of_uncalled
from eventful.macs.counter import count_macs
from policies.protocol import Granularity


class Backbone(abc.ABC):
    """Gives a model family one shape.

    A view of the model as it is now: its parts are looked up when they are used. What is looked up once (sizes of
    attention, tables of positions) belongs to the blocks, their attention and rotary embeddings; `is_current` says
    whether these are still the same.

    Args:
        vit: The wrapped model; never copied.
        dim: D.
        prefix: Number of class and register tokens.
    """

    def __init__(self, vit: nn.Module, dim: int, prefix: int) -> None:
        self.vit: Any = vit
        self.dim, self.prefix = dim, prefix
        self._parts, self._all = self._held(), list(vit.modules())

    @property
    def layers(self) -> Any:
        """The blocks as the model holds them, a `ModuleList` or `Sequential`."""
        return self.vit.blocks

    def is_current(self, vit: nn.Module) -> bool:
        """Whether blocks, attention and rotary embeddings are those that this was made from; cheap."""
        return self.vit is vit and _same(self._parts, self._held())

    def is_unchanged(self) -> bool:
        """Whether all modules of the model are those that this was made from."""
        return _same(self._all, list(self.vit.modules()))

    def signature(self) -> tuple[object, ...]:
        """Types and sizes of all layers, equal for copies."""
        return tuple(
            (type(module).__qualname__, *(p.shape for p in module.parameters(recurse=False))) for module in self._all
        )

    def warn_of_hooks(self) -> None:
        """Warns of hooks that are not called."""
        layers = self.layers
        name = next(name for name, module in self.vit.named_modules() if module is layers)
        blocks = [(f"{name}.{i}", block) for i, block in enumerate(layers)]
        opened = [("", self.vit), (name, layers)]
        warn_of_uncalled([*opened, *self._opened(blocks)], blocks)

    def _opened(self, blocks: Sequence[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
        """Name and module of what is never called as a whole within the blocks."""
        return [(f"{name}.attn", block.get_submodule("attn")) for name, block in blocks]

    def _held(self) -> list[nn.Module | None]:
        parts: list[nn.Module | None] = [self.vit._modules.get("rope")]
        for block in self.vit.blocks._modules.values():
            attn = block._modules.get("attn")
            parts += [block, attn, None if attn is None else attn._modules.get("rope")]
        return parts

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

    def asked(
        self, frame: Tensor | None, arguments: dict[str, Any], granularity: Granularity
    ) -> AbstractContextManager[Tensor]:
        """A stretch of code in which a frame is computed as a caller asked; gives the frame.

        Args:
            frame: What was given to `forward` as its first argument; None for nothing.
            arguments: What was given by name.
            granularity: How the model runs.

        Raises:
            TypeError: If the model takes something else.
        """
        if frame is None or arguments:
            given = ", ".join(arguments) or "nothing"
            raise TypeError(f"{type(self.vit).__name__} takes one frame (B, 3, H, W) and nothing else, got {given}")
        return nullcontext(frame)

    def measure(self, frame: Tensor) -> tuple[float, float, Tensor]:
        """One blank frame: MACs per stream of `embed` and of everything after the blocks, and its tokens (N, D)."""
        size = (frame.shape[-2], frame.shape[-1])
        blank = torch.zeros_like(frame[:1])
        tokens, embed = count_macs(self.embed, blank)
        _, head = count_macs(lambda: self.head(self.features(self.finish(tokens), size)))
        return embed, head, tokens[0].detach()


def _same(a: Sequence[nn.Module | None], b: Sequence[nn.Module | None]) -> bool:
    return len(a) == len(b) and all(map(operator.is_, a, b))
