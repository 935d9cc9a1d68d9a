"""Positions inside attention: decomposed relative positions, and tables of rotary embeddings.

Relative positions (Li et al., "MViTv2", 2022, section 4.1; used by ViTDet and SAM): the logit of query i and key j
gains q_i . R_h[y_i - y_j] + q_i . R_w[x_i - x_j]. The two terms depend on the key only through its row and its
column, so that a query needs one number for each row and each column of keys ("axes"), and every slice of the bias is
a sum of two gathers from those.

Rotary embeddings (Su et al., "RoFormer", 2021) turn q and k by angles that depend on the position alone; they are
applied before k is buffered.

Shape suffixes: B streams, N tokens, P rows of queries, K keys, H heads, d channels of a head, L relative distances,
A key rows plus key columns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat
from torch import Tensor, nn

from eventful.attention.buffers import QKV
from eventful.attention.per_device import PerDevice
from eventful.macs.ledger import Amount
from eventful.rows import Rows

Tables = Callable[[], tuple[Tensor, Tensor]]


class RelativePositions:
    """Biases of queries on one grid against keys on another that covers the same area.

    Args:
        tables: Returns the learned (L_h, d) and (L_w, d) tables; called at each use, because they may be trained.
        queries: (rows, columns) of the query grid.
        keys: (rows, columns) of the key grid.
    """

    def __init__(self, tables: Tables, queries: tuple[int, int], keys: tuple[int, int]) -> None:
        self._tables, self._queries, self.keys = tables, queries, keys
        self._distances = [PerDevice(functools.partial(_distances, q, k)) for q, k in zip(queries, keys, strict=True)]
        height, width = queries
        self._place = PerDevice(
            lambda: torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")).flatten(1)
        )
        key = torch.arange(keys[0] * keys[1])
        self._key = PerDevice(lambda: torch.stack([key.div(keys[1], rounding_mode="floor"), key % keys[1]]))

    def axes(self, q_PHd: Tensor, place_P: Tensor) -> Tensor:
        """Biases of some queries against key rows and key columns.

        Args:
            q_PHd: Queries, not scaled.
            place_P: Their places on the query grid, row by row.

        Returns:
            (P, H, A): against each row of keys, then against each column.
        """
        parts = []
        for axis, table_Ld in enumerate(self._resized()):
            along_P = self._place.on(q_PHd.device)[axis][place_P]
            distance_PK = self._distances[axis].on(q_PHd.device)[along_P]
            near_PHL = q_PHd @ table_Ld.to(q_PHd.dtype).T
            parts.append(near_PHL.gather(2, distance_PK[:, None].expand(-1, q_PHd.shape[1], -1)))
        return torch.cat(parts, -1)

    def all_axes(self, q_BNHd: Tensor) -> Tensor:
        """The same for the whole query grid (B, N, H, A); carries gradients."""
        q_BYXHd = q_BNHd.unflatten(1, self._queries)
        rows, columns = self._resized()
        r_h = rows.to(q_BNHd.dtype)[self._distances[0].on(q_BNHd.device)]
        r_w = columns.to(q_BNHd.dtype)[self._distances[1].on(q_BNHd.device)]
        axis_h = torch.einsum("byxhd,ykd->byxhk", q_BYXHd, r_h)
        axis_w = torch.einsum("byxhd,xkd->byxhk", q_BYXHd, r_w)
        return torch.cat([axis_h, axis_w], -1).flatten(1, 2)

    def bias(self, axes_BPHA: Tensor, key_K: Tensor | None = None) -> Tensor:
        """The bias (B, H, P, K) of queries from their axes against some keys, or against all (None)."""
        axes_h, axes_w = axes_BPHA.transpose(1, 2).split(self.keys, dim=-1)
        if key_K is None:
            return (axes_h[..., :, None] + axes_w[..., None, :]).flatten(-2)
        y_K, x_K = self._key.on(key_K.device)[:, key_K]
        return axes_h.index_select(-1, y_K).add_(axes_w.index_select(-1, x_K))

    def macs(self, rows: Amount, dim: int) -> Amount:
        """Multiply-accumulates of the products of `rows` queries of `dim` = H d channels with the tables.

        `axes` multiplies with all distances in the tables, because one large product is faster than many small ones;
        only the distances that occur are counted.
        """
        return rows * float(sum(self.keys) * dim)

    def _resized(self) -> list[Tensor]:
        """The tables, interpolated to the distances that occur on these grids."""
        sizes = (2 * max(q, k) - 1 for q, k in zip(self._queries, self.keys, strict=True))
        return [_resize(table, size) for table, size in zip(self._tables(), sizes, strict=True)]


class RopeTable:
    """Turns queries and keys by their positions on a grid; prefix tokens are left as they are.

    Args:
        rope: timm's embedding module, with `get_embed(shape)`.
        grid: (rows, columns) of positions.
        prefix: Number of tokens before them.
        block: Index of the block's embedding where every block has its own, else None.
        half: Whether the channels of a pair lie half a head apart, instead of side by side.
        place: Returns, for a device, each token's position, where tokens share positions (windows); None if token n
            is at position n.
    """

    def __init__(
        self,
        rope: nn.Module,
        grid: tuple[int, int],
        prefix: int,
        block: int | None = None,
        half: bool = False,
        place: Callable[[torch.device], Tensor] | None = None,
    ) -> None:
        self._rope, self._grid, self._prefix, self._block = rope, grid, prefix, block
        self._half, self._place = half, place
        self._key: tuple[object, ...] | None = None
        self._table: Tensor | None = None

    def turn(self, new: QKV, rows: Rows) -> QKV:
        """q, k, v (..., H, d) of some rows, the first two turned."""
        q, k, v = new
        table = rows.table(self.table_N1())
        q, k = (apply_rot_embed_cat(x, table, half=self._half).to(v.dtype) for x in (q, k))
        return q, k, v

    def table_N1(self) -> Tensor:
        """The table (N, 1 or H, 2 d), on the device of the module; computed anew only when the module has changed."""
        key = self._version()
        if key is None or self._table is None or key != self._key:
            self._key, self._table = key, self._compute()
        return self._table

    def _version(self) -> tuple[object, ...] | None:
        """What the table depends on; None if it must carry gradients."""
        sources = [*self._rope.parameters(), *self._rope.buffers()]
        if torch.is_grad_enabled() and any(source.requires_grad for source in sources):
            return None
        state = [(id(x), x.device, x.dtype, 0 if x.is_inference() else x._version) for x in sources]
        return (torch.is_inference_mode_enabled(), *state)

    def _compute(self) -> Tensor:
        embed = self._rope.get_embed(list(self._grid))  # type: ignore[operator]
        if self._block is not None:
            embed = embed[self._block]
        embed_N1 = embed.transpose(0, 1) if embed.dim() == 3 else embed[:, None]
        if self._place is not None:
            embed_N1 = embed_N1[self._place(embed_N1.device)]
        sin, cos = embed_N1.new_zeros(embed_N1[:1].shape).chunk(2, -1)
        still = torch.cat([sin, cos + 1], -1).expand(self._prefix, -1, -1)
        return torch.cat([still, embed_N1])


def _distances(queries: int, keys: int) -> Tensor:
    """Index of the relative distance of each query and key along one axis (queries, keys)."""
    stretch_q, stretch_k = max(keys / queries, 1.0), max(queries / keys, 1.0)
    query, key = torch.arange(queries)[:, None] * stretch_q, torch.arange(keys)[None] * stretch_k
    return (query - key + (keys - 1) * stretch_k).long()


def _resize(table_Ld: Tensor, size: int) -> Tensor:
    if table_Ld.shape[0] == size:
        return table_Ld
    return F.interpolate(table_Ld.T[None], size=size, mode="linear")[0].T
