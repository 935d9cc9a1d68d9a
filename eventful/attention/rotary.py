"""Tables of rotary embeddings (Su et al., "RoFormer", 2021).

q and k are turned by angles that depend on the position alone, before k is buffered.

Shape suffixes: N tokens, H heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import apply_rot_embed_cat
from torch import Tensor

from eventful.attention.buffers import QKV
from eventful.attention.derived import Derived
from eventful.rows import Rows


class RopeTable:
    """Turns queries and keys by their positions on a grid; prefix tokens are left as they are.

    Args:
        rope: timm's embedding module, or what answers like it: `get_embed(shape)`, `parameters()`, `buffers()`.
        grid: (rows, columns) of positions.
        prefix: Number of tokens before them.
        block: Index of the block's embedding where every block has its own, else None.
        half: Whether the channels of a pair lie half a head apart, instead of side by side.
        place: Returns, for a device, each token's position, where tokens share positions (windows); None if token n
            is at position n.
    """

    def __init__(
        self,
        rope: Any,
        grid: tuple[int, int],
        prefix: int,
        block: int | None = None,
        half: bool = False,
        place: Callable[[torch.device], Tensor] | None = None,
    ) -> None:
        self._rope, self._grid, self._prefix, self._block = rope, grid, prefix, block
        self._half, self._place = half, place
        self._kept: Derived[Tensor] = Derived()

    def turn(self, new: QKV, rows: Rows) -> QKV:
        """q, k, v (..., H, d) of some rows, the first two turned."""
        q, k, v = new
        table = rows.table(self.table_N1())
        q, k = (apply_rot_embed_cat(x, table, half=self._half).to(v.dtype) for x in (q, k))
        return q, k, v

    def table_N1(self) -> Tensor:
        """The table (N, 1 or H, 2 d), on the device of the module; computed anew only when the module has changed."""
        return self._kept.get([*self._rope.parameters(), *self._rope.buffers()], self._compute)

    def _compute(self) -> Tensor:
        embed = self._rope.get_embed(list(self._grid))
        if self._block is not None:
            embed = embed[self._block]
        embed_N1 = embed.transpose(0, 1) if embed.dim() == 3 else embed[:, None]
        if self._place is not None:
            embed_N1 = embed_N1[self._place(embed_N1.device)]
        sin, cos = embed_N1.new_zeros(embed_N1[:1].shape).chunk(2, -1)
        still = torch.cat([sin, cos + 1], -1).expand(self._prefix, -1, -1)
        return torch.cat([still, embed_N1])
