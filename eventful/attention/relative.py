"""Decomposed relative positions (Li et al., "MViTv2", 2022, section 4.1; used by ViTDet and SAM).

The logit of query i and key j gains q_i . R_h[y_i, y_j] + q_i . R_w[x_i, x_j], q unscaled. The two terms depend on the
key only through its row and its column, so that a query needs one number for each row and each column of keys
("axes"), and every slice of the bias is a sum of two gathers from those.

R[q, k] is entry q - k of a learned table, as long as the grid is the one that the table was made for. For other grids
there are two rules, which give different numbers: timm and detectron2 stretch the *table* linearly; the code of
Eventful Transformers stretches the *array* R over (q, k) by bicubic interpolation, and what comes out depends on q and
k, not on q - k alone. Where keys are pooled, R is the mean over the keys of a cell, so that the bias is the mean of
theirs.

Shape suffixes: B streams, N tokens, P rows of queries, Q queries and K keys along one axis (or, of biases, K keys),
H heads, d channels of a head, L relative distances, A key rows plus key columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from eventful.attention.per_device import PerDevice
from eventful.macs.ledger import Amount

RelativeResize = Literal["array", "table"]
"""What is stretched for a grid that a table was not made for: the array R[q, k], or the table."""


def relative_array(table_Ld: Tensor, side: int, resize: RelativeResize, pool: int = 1) -> Tensor:
    """R[q, k] (Q, K, d) along one axis.

    Args:
        table_Ld: The learned table; entry (L - 1) / 2 is of distance 0.
        side: Q, the number of rows (or columns) of queries.
        resize: What is stretched if the table was made for another number of them.
        pool: Rows (or columns) that share a key; the last key may have fewer.
    """
    table = table_Ld.to(torch.promote_types(table_Ld.dtype, torch.float32))
    if resize == "table" and len(table) != 2 * side - 1:
        table = F.interpolate(table.T[None], size=2 * side - 1, mode="linear")[0].T
    place = torch.arange((len(table) + 1) // 2, device=table.device)
    array_dQK = table[place[:, None] - place + len(place) - 1].permute(2, 0, 1)
    if len(place) != side:
        array_dQK = F.interpolate(array_dQK[None], size=(side, side), mode="bicubic", align_corners=False)[0]
    if pool > 1:
        array_dQK = F.avg_pool2d(array_dQK, (1, pool), ceil_mode=True, count_include_pad=False)
    return array_dQK.permute(1, 2, 0).to(table_Ld.dtype).contiguous()


def bias_axes(q_BYXHd: Tensor, rows_QKd: Tensor, columns_QKd: Tensor) -> Tensor:
    """Products of a whole grid of queries with key rows and key columns (B, Y, X, H, A)."""
    axis_h = torch.einsum("byxhd,ykd->byxhk", q_BYXHd, rows_QKd.to(q_BYXHd.dtype))
    axis_w = torch.einsum("byxhd,xkd->byxhk", q_BYXHd, columns_QKd.to(q_BYXHd.dtype))
    return torch.cat([axis_h, axis_w], -1)


def _products(q_PHd: Tensor, array_QKd: Tensor, along_P: Tensor) -> Tensor:
    """Products (P, H, K) of queries with the keys of their own row (or column) of queries."""
    if q_PHd.device.type != "cpu":
        return q_PHd @ array_QKd[along_P].transpose(1, 2)
    # A CPU is faster with one product for each row of queries than with a copy of R and a product for each query.
    order_P = along_P.argsort(stable=True)
    parts = q_PHd[order_P].split(torch.bincount(along_P, minlength=len(array_QKd)).tolist())
    sorted_PHK = torch.cat([part @ array_QKd[row].T for row, part in enumerate(parts)])
    return torch.empty_like(sorted_PHK).index_copy_(0, order_P, sorted_PHK)


class RelativePositions:
    """Biases of queries on one grid against keys on another that covers the same area.

    Args:
        arrays: Returns R for rows and for columns; called at each use, because tables may be trained.
        queries: (rows, columns) of the query grid.
        keys: (rows, columns) of the key grid.
    """

    def __init__(
        self, arrays: Callable[[], tuple[Tensor, Tensor]], queries: tuple[int, int], keys: tuple[int, int]
    ) -> None:
        self._arrays, self._queries, self.keys = arrays, queries, keys
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
        places = self._place.on(q_PHd.device)[:, place_P]
        products = (
            _products(q_PHd, array_QKd.to(q_PHd.dtype), along_P)
            for array_QKd, along_P in zip(self._arrays(), places, strict=True)
        )
        return torch.cat(list(products), -1)

    def all_axes(self, q_BNHd: Tensor) -> Tensor:
        """The same for the whole query grid (B, N, H, A); carries gradients."""
        return bias_axes(q_BNHd.unflatten(1, self._queries), *self._arrays()).flatten(1, 2)

    def bias(self, axes_BPHA: Tensor, key_K: Tensor | None = None) -> Tensor:
        """The bias (B, H, P, K) of queries from their axes against some keys, or against all (None)."""
        axes_h, axes_w = axes_BPHA.transpose(1, 2).split(self.keys, dim=-1)
        if key_K is None:
            return (axes_h[..., :, None] + axes_w[..., None, :]).flatten(-2)
        y_K, x_K = self._key.on(key_K.device)[:, key_K]
        return axes_h.index_select(-1, y_K).add_(axes_w.index_select(-1, x_K))

    def macs(self, rows: Amount, dim: int) -> Amount:
        """Multiply-accumulates of the products of `rows` queries of `dim` = H d channels with the arrays."""
        return rows * float(sum(self.keys) * dim)
