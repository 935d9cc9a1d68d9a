"""Global attention on a grid of tokens with decomposed relative positions, pooled keys, or both.

The exact update is that of `eventful.attention.full`, with two additions. The bias depends on query and key: each query
keeps its biases against the rows and the columns of keys, from which the slices for the partial attentions are put
together. The keys that change are not the tokens that change: with pooling they are the cells that hold one.

Shape suffixes: B streams, N tokens, K keys, T keys that change, M selected tokens, H heads, d channels of a head,
A rows plus columns of keys.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from eventful.attention.buffers import buffered
from eventful.attention.full import FullAttention
from eventful.attention.pooling import KeyPooling
from eventful.attention.relative import RelativePositions
from eventful.macs.ledger import Amount, MacLedger
from eventful.rows import PackedRows, Rows
from eventful.state import AttentionState


class GridAttention(FullAttention):
    """Every token attends to every key of its grid.

    Args:
        heads: H.
        head_dim: d.
        scale: Factor of the query-key products.
        tokens: N; there are no prefix tokens.
        positions: Relative positions of tokens and (pooled) keys, or None.
        pooling: Cells over which keys and values are averaged, or None.
    """

    batched = False

    def __init__(
        self,
        heads: int,
        head_dim: int,
        scale: float,
        tokens: int,
        positions: RelativePositions | None,
        pooling: KeyPooling | None,
    ) -> None:
        super().__init__(heads, head_dim, scale)
        self._positions, self._pooling = positions, pooling
        self._keys = tokens if pooling is None else pooling.cells.cells

    def keys(self, x_BNHd: Tensor) -> Tensor:
        """See `GlobalLayer.keys`."""
        return x_BNHd if self._pooling is None else self._pooling.all(x_BNHd)

    def key_count(self, tokens: int) -> int:
        """See `GlobalLayer.key_count`."""
        return self._keys

    def some_keys(self, x_BNHd: Tensor, key_T: Tensor) -> Tensor:
        """See `GlobalLayer.some_keys`."""
        return x_BNHd[:, key_T] if self._pooling is None else self._pooling.some(x_BNHd, key_T)

    def key_rows(self, rows: Rows) -> Rows:
        """See `GlobalLayer.key_rows`."""
        return rows if self._pooling is None else self._pooling.cells.rows(rows)

    def expect_keys(self, counts: np.ndarray) -> np.ndarray:
        """See `GlobalLayer.expect_keys`."""
        return counts if self._pooling is None else self._pooling.cells.expect(counts)

    def bias(self, q_BNHd: Tensor) -> Tensor | None:
        """See `GlobalLayer.bias`."""
        if self._positions is None:
            return None
        return self._positions.bias(self._positions.all_axes(q_BNHd))

    def count_bias(self, ledger: MacLedger, rows: Amount) -> None:
        """See `GlobalLayer.count_bias`."""
        if self._positions is not None:
            ledger.add("bias", self._positions.macs(rows, self.dim))

    def _changing(self, state: AttentionState, changed: PackedRows) -> tuple[Tensor, Tensor]:
        k, v = buffered(state.k_BNHd), buffered(state.v_BNHd)
        return self.some_keys(k, changed.flat_P), self.some_keys(v, changed.flat_P)

    def _remember(self, state: AttentionState, rows: PackedRows, q_BMHd: Tensor) -> None:
        if self._positions is not None:
            rows.put(buffered(state.axes_BNHA), self._positions.axes(q_BMHd[0], rows.flat_P))

    def _bias_of_all(self, state: AttentionState) -> Tensor | None:
        if self._positions is None:
            return None
        axes_BNHA = self._positions.all_axes(buffered(state.q_BNHd)).contiguous()
        state.axes_BNHA = axes_BNHA if state.axes_BNHA is None else state.axes_BNHA.copy_(axes_BNHA)
        return self._positions.bias(axes_BNHA)

    def _bias_of_rows(self, state: AttentionState, rows: PackedRows, changed: PackedRows | None) -> Tensor | None:
        if self._positions is None:
            return None
        key_T = None if changed is None else changed.flat_P
        return self._positions.bias(rows.take(buffered(state.axes_BNHA))[None], key_T)

    def _bias_of_queries(self, q_MHd: Tensor, index_M: Tensor) -> Tensor | None:
        if self._positions is None:
            return None
        return self._positions.bias(self._positions.axes(q_MHd, index_M)[None])
