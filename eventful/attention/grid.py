"""Global attention on a grid of tokens with decomposed relative positions, pooled keys, or both: the exact update.

As in `eventful.attention.full`, with two differences. The bias depends on query and key: each query keeps its biases
against the rows and the columns of keys, from which the slices for the partial attentions are put together. The keys
that change are not the tokens that change: with pooling they are the cells that hold one.

Shape suffixes: B streams, N tokens, K keys, T keys that change, M selected tokens, R other tokens, H heads, d channels
of a head, A rows plus columns of keys.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eventful.attention.full import QKV, buffered, stream_of, write
from eventful.attention.kernels import partial_attention
from eventful.attention.merge import merge
from eventful.attention.pooling import KeyPooling
from eventful.attention.positions import RelativePositions
from eventful.attention.protocol import changed_keys
from eventful.macs.ledger import Amount, MacLedger
from eventful.rows import Counts, PackedRows, Rows
from eventful.state import AttentionState


class GridAttention:
    """Every token attends to every key of its grid.

    Args:
        heads: H.
        head_dim: d.
        scale: Of the query-key products.
        tokens: N; there are no prefix tokens.
        positions: Relative positions of tokens and (pooled) keys, or None.
        pooling: Of keys and values, or None.
    """

    def __init__(
        self,
        heads: int,
        head_dim: int,
        scale: float,
        tokens: int,
        positions: RelativePositions | None,
        pooling: KeyPooling | None,
    ) -> None:
        self.heads, self.head_dim, self.scale = heads, head_dim, scale
        self.dim = heads * head_dim
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

    def dense(self, q_BNHd: Tensor, k_BNHd: Tensor, v_BNHd: Tensor) -> Tensor:
        """See `AttentionLayer.dense`."""
        return self._attend(q_BNHd, self.keys(k_BNHd), self.keys(v_BNHd), self.bias(q_BNHd))

    def rows(self, q: Tensor, rows: Rows, state: AttentionState) -> Tensor:
        """See `AttentionLayer.rows`."""
        k_BNHd, v_BNHd = buffered(state.k_BNHd), buffered(state.v_BNHd)
        if not isinstance(rows, PackedRows):
            return self.dense(q, k_BNHd, v_BNHd)
        k_BKHd, v_BKHd = self.keys(k_BNHd), self.keys(v_BNHd)
        parts = []
        for b, (q_MHd, index_M) in enumerate(zip(q.split(list(rows.lengths)), rows.split(), strict=True)):
            bias = None
            if self._positions is not None:
                bias = self._positions.bias(self._positions.axes(q_MHd, index_M)[None])
            parts.append(self._attend(q_MHd[None], k_BKHd[b : b + 1], v_BKHd[b : b + 1], bias)[0])
        return torch.cat(parts)

    def flush_exact(self, state: AttentionState) -> None:
        """See `AttentionLayer.flush_exact`."""
        q, k, v = buffered(state.q_BNHd), buffered(state.k_BNHd), buffered(state.v_BNHd)
        bias = None
        if self._positions is not None:
            state.axes_BNHA = self._positions.all_axes(q).contiguous()
            bias = self._positions.bias(state.axes_BNHA)
        out, lse = partial_attention(q, self.keys(k), self.keys(v), bias, self.scale)
        state.out_BNHd, state.lse_BNH = out.float().contiguous(), lse.contiguous()

    def update_exact(self, state: AttentionState, rows: Rows, new: QKV, ledger: MacLedger) -> None:
        """See `AttentionLayer.update_exact`."""
        if not isinstance(rows, PackedRows) or state.out_BNHd is None:
            write(state, rows, new)
            self.flush_exact(state)
            self.count_dense(ledger, float(rows.tokens), rows.tokens)
            return
        split = [x.split(list(rows.lengths)) for x in new]
        refreshed_B = np.zeros(rows.streams)
        for b, index_M in enumerate(rows.split()):
            if len(index_M):
                part = (split[0][b], split[1][b], split[2][b])
                refreshed_B[b] = self._update(stream_of(state, b), index_M, part, rows.tokens)
        self._count(ledger, rows.counts, self.key_rows(rows).counts, rows.tokens, refreshed_B)

    def count_bias(self, ledger: MacLedger, rows: Amount) -> None:
        """See `GlobalLayer.count_bias`."""
        if self._positions is not None:
            ledger.add("bias", self._positions.macs(rows, self.dim))

    def count_dense(self, ledger: MacLedger, rows: Amount, tokens: int) -> None:
        """See `AttentionLayer.count_dense`."""
        self._count_pairs(ledger, rows, rows * float(self._keys))

    def count_exact(self, ledger: MacLedger, rows: Rows) -> None:
        """See `AttentionLayer.count_exact`."""
        self._count(ledger, rows.counts, self.key_rows(rows).counts, rows.tokens)

    def expect_exact(self, ledger: MacLedger, counts: np.ndarray, tokens: int) -> None:
        """See `AttentionLayer.expect_exact`."""
        self._count(ledger, counts, self.expect_keys(counts), tokens)

    def _update(self, state: AttentionState, index_M: Tensor, new: QKV, tokens: int) -> float:
        """The update of one stream; returns how many rows were refreshed."""
        rows = PackedRows.from_index(index_M[None], tokens)
        key_T = changed_keys(self, rows)
        if self._is_dense(float(len(index_M)), float(len(key_T)), tokens):
            write(state, rows, new)
            out_BNHd, lse_BNH, axes_BNHA = state.out_BNHd, state.lse_BNH, state.axes_BNHA
            self.flush_exact(state)
            # The state of one stream is a view: what was computed goes back into the whole.
            for whole, fresh in ((out_BNHd, state.out_BNHd), (lse_BNH, state.lse_BNH), (axes_BNHA, state.axes_BNHA)):
                if whole is not None:
                    whole.copy_(buffered(fresh))
            return 0.0
        old = self._changing(state, key_T)
        write(state, rows, new)
        if self._positions is not None:
            rows.put(buffered(state.axes_BNHA), self._positions.axes(new[0], index_M))
        rest_R = _others(index_M, tokens)
        unsafe_R = self._merge(state, PackedRows.from_index(rest_R[None], tokens), key_T, old)
        afresh = torch.cat([index_M, rest_R[unsafe_R]])
        self._afresh(state, PackedRows.from_index(afresh[None], tokens))
        return float(len(afresh) - len(index_M))

    def _merge(self, state: AttentionState, rest: PackedRows, key_T: Tensor, old: tuple[Tensor, Tensor]) -> Tensor:
        """Takes the changed keys' old part out of the other rows and puts the new one in; returns unsafe rows (R,)."""
        q_RHd = rest.take(buffered(state.q_BNHd))
        keys, values = (torch.cat(pair) for pair in zip(old, self._changing(state, key_T), strict=True))
        bias = self._slice(state, rest, key_T)
        part, lse = partial_attention(
            q_RHd.expand(2, *q_RHd.shape),
            keys,
            values,
            None if bias is None else bias.expand(2, -1, -1, -1),
            self.scale,
        )
        return merge(buffered(state.out_BNHd), buffered(state.lse_BNH), rest, part, lse)

    def _afresh(self, state: AttentionState, rows: PackedRows) -> None:
        """Computes rows over all keys and writes their outputs and sums."""
        q_MHd, bias = rows.take(buffered(state.q_BNHd)), self._slice(state, rows, None)
        k, v = self.keys(buffered(state.k_BNHd)), self.keys(buffered(state.v_BNHd))
        out, lse = partial_attention(q_MHd[None], k, v, bias, self.scale)
        rows.put(buffered(state.out_BNHd), out.float())
        rows.put(buffered(state.lse_BNH), lse)

    def _slice(self, state: AttentionState, rows: PackedRows, key_T: Tensor | None) -> Tensor | None:
        if self._positions is None:
            return None
        return self._positions.bias(rows.take(buffered(state.axes_BNHA))[None], key_T)

    def _changing(self, state: AttentionState, key_T: Tensor) -> tuple[Tensor, Tensor]:
        return self.some_keys(buffered(state.k_BNHd), key_T), self.some_keys(buffered(state.v_BNHd), key_T)

    def _attend(self, q_BMHd: Tensor, k_BKHd: Tensor, v_BKHd: Tensor, bias: Tensor | None) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q_BMHd, k_BKHd, v_BKHd))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale).transpose(1, 2)

    def _is_dense(self, selected: Amount, changed: Amount, tokens: int) -> Amount:
        """Whether dense attention is no more work than the update."""
        return selected * self._keys + 2 * (tokens - selected) * changed >= tokens * self._keys

    def _count(
        self, ledger: MacLedger, selected: Counts, changed: Counts, tokens: int, refreshed: Amount = 0.0
    ) -> None:
        dense = self._is_dense(selected, changed, tokens) * 1.0
        others = tokens - selected
        pairs = (selected + refreshed) * self._keys + 2 * others * changed
        self._count_pairs(
            ledger, dense * tokens + (1 - dense) * selected, dense * (tokens * self._keys) + (1 - dense) * pairs
        )
        ledger.add("merge", (1 - dense) * (selected > 0) * others * (3.0 * self.dim))

    def _count_pairs(self, ledger: MacLedger, rows: Amount, pairs: Amount) -> None:
        ledger.add("qk", pairs * self.dim)
        ledger.add("av", pairs * self.dim)
        self.count_bias(ledger, rows)


def _others(index_M: Tensor, tokens: int) -> Tensor:
    rest = torch.ones(tokens, dtype=torch.bool, device=index_M.device)
    return rest.index_fill_(0, index_M, False).nonzero().squeeze(1)
