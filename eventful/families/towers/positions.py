"""Positions of a tower's tokens: the order of tokens, rotary tables, and what is added between layers.

Eventful inference has class, register and detection tokens before the patches; YOLOS has the last kind behind them.

Shape suffixes: B streams, N tokens, D channels, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eventful.attention.derived import Derived


@dataclass(frozen=True)
class TokenOrder:
    """Where the tokens that are no patches lie.

    Attributes:
        prefix: How many there are.
        trailing: How many of them lie behind the patches in the wrapped model.
    """

    prefix: int
    trailing: int

    def ours(self, tokens: Tensor) -> Tensor:
        """The wrapped model's tokens (..., N, D), all that are no patches first."""
        return self._swapped(tokens, tokens.shape[-2] - self.prefix, self.trailing)

    def theirs(self, tokens: Tensor) -> Tensor:
        """The inverse of `ours`."""
        return self._swapped(tokens, self.trailing, tokens.shape[-2] - self.prefix)

    def _swapped(self, tokens: Tensor, left: int, right: int) -> Tensor:
        if not self.trailing:
            return tokens
        first, left_part, right_part = tokens.split([self.prefix - self.trailing, left, right], -2)
        return torch.cat([first, right_part, left_part], -2)


class RopeOfTower:
    """Rotary embeddings of a tower as `RopeTable` asks for them: by grid, sines before cosines.

    Args:
        module: Takes a frame, of which it looks at the shape, and returns cosines and sines (N, d) of the patches.
        patch: Height and width of a patch in pixels.
    """

    def __init__(self, module: Any, patch: tuple[int, int]) -> None:
        self._module, self._patch = module, patch
        self.parameters, self.buffers = module.parameters, module.buffers

    def get_embed(self, shape: Sequence[int]) -> Tensor:
        """The table (N, 2 d) of a grid of (rows, columns)."""
        device = next(iter(self.buffers())).device
        cos, sin = self._module(torch.zeros(1, 1, *pixels(shape, self._patch), device=device))
        return torch.cat([sin, cos], -1)


def positions_between(module: Any, size: tuple[int, int], order: TokenOrder, layers: int) -> list[Callable[[], Tensor]]:
    """What is added after each of the layers but the last (N, D), as functions: computed anew when weights change.

    Args:
        module: Takes (height, width) and returns the positions (L - 1, 1, N, D).
        size: Of the frames, in pixels.
        order: Where the tokens lie.
        layers: L.
    """
    kept: Derived[Tensor] = Derived()

    def table() -> Tensor:
        return kept.get(list(module.parameters()), lambda: order.ours(module(size)[:, 0]))

    return [lambda i=i: table()[i] for i in range(layers - 1)]  # type: ignore[misc]


def pixels(grid: Sequence[int], patch: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a grid of (rows, columns) of patches."""
    return grid[0] * patch[0], grid[1] * patch[1]
