"""`torch.compile` on the token-wise parts of blocks, where they run on packed rows.

The number of packed rows changes from frame to frame; it is compiled as a symbolic size, so that one graph serves all
of them, and the blocks share their graphs because their weights are inputs. Whole frames (flushes) and masked
execution run as they are.

Shape suffixes: P packed rows, D channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eventful.families.block import Block


def compiled_block(block: Block, backend: str) -> Block:
    """The block with its token-wise parts compiled.

    Args:
        block: Block as a family made it.
        backend: Backend of `torch.compile`.
    """
    return dataclasses.replace(
        block,
        norm1=_OnPacked(block.norm1, backend),
        project=_OnPacked(block.project, backend),
        proj=_OnPacked(block.proj, backend),
        norm2=_OnPacked(block.norm2, backend),
        mlp=_OnPacked(block.mlp, backend),
    )


class _OnPacked:
    """A token-wise function, compiled for rows (P, D)."""

    def __init__(self, function: Callable[[Tensor], Any], backend: str) -> None:
        self._function = function
        self._compiled = torch.compile(function, dynamic=True, backend=backend)

    def __call__(self, x: Tensor) -> Any:
        if x.dim() != 2:
            return self._function(x)
        if x.shape[0] > 1:
            return self._compiled(x)
        # A size of one is never symbolic: it would be compiled once more, by itself.
        out = self._compiled(x.repeat(2, 1))
        return out[:1] if isinstance(out, Tensor) else tuple(part[:1] for part in out)
