"""Exact streaming update of global softmax attention without N x N buffers.

Every row keeps its output and its log-sum-exp. When the tokens in S change their q, k, v, rows in S are computed over
all keys. In all other rows the share of the old k, v of S is replaced by that of the new ones
(`eventful.attention.merge`); rows for which that is not safe are computed afresh.

Shape suffixes: B streams, N tokens, M selected tokens, R other tokens, P selected tokens of all streams, H heads,
d channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eventful.attention.kernels import partial_attention
from eventful.attention.merge import merge
from eventful.macs.ledger import Amount, MacLedger
from eventful.rows import Counts, PackedRows, Rows
from eventful.state import AttentionState

QKV = tuple[Tensor, Tensor, Tensor]

DENSE_FROM = 0.4
"""Share of selected tokens from which dense attention is faster (measured in docs/lab-notes.md).

By multiply-accumulates it would be one half, where M N + 2 (N - M) M = N N; merging and small kernels cost the rest.
"""


class FullAttention:
    """Every token attends to every token. An `eventful.attention.protocol.GlobalLayer`.

    Args:
        heads: H.
        head_dim: d.
        scale: Of the query-key products.
    """

    def __init__(self, heads: int, head_dim: int, scale: float) -> None:
        self.heads, self.head_dim, self.scale = heads, head_dim, scale
        self.dim = heads * head_dim

    def keys(self, x_BNHd: Tensor) -> Tensor:
        """See `GlobalLayer.keys`."""
        return x_BNHd

    def key_count(self, tokens: int) -> int:
        """See `GlobalLayer.key_count`."""
        return tokens

    def some_keys(self, x_BNHd: Tensor, key_T: Tensor) -> Tensor:
        """See `GlobalLayer.some_keys`."""
        return x_BNHd[:, key_T]

    def key_rows(self, rows: Rows) -> Rows:
        """See `GlobalLayer.key_rows`."""
        return rows

    def expect_keys(self, counts: np.ndarray) -> np.ndarray:
        """See `GlobalLayer.expect_keys`."""
        return counts

    def bias(self, q_BNHd: Tensor) -> Tensor | None:
        """See `GlobalLayer.bias`."""
        return None

    def dense(self, q_BRHd: Tensor, k_BNHd: Tensor, v_BNHd: Tensor) -> Tensor:
        """Attention of the given rows over all keys (B, R, H, d); carries gradients."""
        q, k, v = (x.transpose(1, 2) for x in (q_BRHd, k_BNHd, v_BNHd))
        return F.scaled_dot_product_attention(q, k, v, scale=self.scale).transpose(1, 2)

    def rows(self, q: Tensor, rows: Rows, state: AttentionState) -> Tensor:
        """Attention of the taken rows over all buffered keys, without any update of other rows.

        Args:
            q: Queries of the rows (..., H, d), as `rows.take` shapes them.
            rows: Which rows these are.
            state: With the keys and values of all tokens.

        Returns:
            Attention outputs shaped like q.
        """
        k_BNHd, v_BNHd = buffered(state.k_BNHd), buffered(state.v_BNHd)
        if not isinstance(rows, PackedRows):
            return self.dense(q, k_BNHd, v_BNHd)
        if rows.index_BM is not None:
            return self.dense(q.view(rows.streams, -1, *q.shape[1:]), k_BNHd, v_BNHd).reshape(q.shape)
        parts = [
            self.dense(q_M[None], k_BNHd[b : b + 1], v_BNHd[b : b + 1])[0]
            for b, q_M in enumerate(q.split(list(rows.lengths)))
        ]
        return torch.cat(parts)

    def flush_exact(self, state: AttentionState) -> None:
        """Dense attention from the buffers, with the sums from which `update_exact` goes on."""
        q, k, v = buffered(state.q_BNHd), buffered(state.k_BNHd), buffered(state.v_BNHd)
        out, lse = partial_attention(q, k, v, scale=self.scale)
        state.out_BNHd, state.lse_BNH = out.float().contiguous(), lse.contiguous()

    def update_exact(self, state: AttentionState, rows: Rows, new: QKV, ledger: MacLedger) -> None:
        """Writes new q, k, v of the rows into the buffers and brings all attention outputs up to date, in place.

        Args:
            state: Buffers of B streams.
            rows: Packed rows, or all rows.
            new: q, k, v of the rows (..., H, d).
            ledger: Takes the cost.
        """
        if not isinstance(rows, PackedRows) or state.out_BNHd is None:
            write(state, rows, new)
            self.flush_exact(state)
            self.count_dense(ledger, float(rows.tokens), rows.tokens)
            return
        refreshed = [self._update(*part) for part in _parts(state, rows, new)]
        refreshed_B = np.repeat(refreshed, rows.streams // len(refreshed)) if refreshed else 0.0
        self.expect_exact(ledger, rows.counts, rows.tokens, refreshed_B)

    def _update(self, state: AttentionState, index_BM: Tensor, new: QKV) -> float:
        """The update for streams with the same number of selected rows; returns refreshed rows per stream."""
        B, M = index_BM.shape
        q_BNHd, k_BNHd, v_BNHd = buffered(state.q_BNHd), buffered(state.k_BNHd), buffered(state.v_BNHd)
        out_BNHd, lse_BNH = buffered(state.out_BNHd), buffered(state.lse_BNH)
        N = q_BNHd.shape[1]
        if M == 0:
            return 0.0
        rows = PackedRows.from_index(index_BM, N)
        if M >= DENSE_FROM * N:
            write(state, rows, new)
            out, lse = partial_attention(q_BNHd, k_BNHd, v_BNHd, scale=self.scale)
            out_BNHd.copy_(out)
            lse_BNH.copy_(lse)
            return 0.0

        rest = _complement(rows)
        q_BRHd = rest.take(q_BNHd).unflatten(0, (B, N - M))
        q_new, k_new, v_new = (x.view(B, M, self.heads, self.head_dim) for x in new)
        # One kernel call for the old and the new keys: the work of small M fills the cores better.
        keys, values = (
            torch.cat([rows.take(old).view_as(now), now]) for old, now in ((k_BNHd, k_new), (v_BNHd, v_new))
        )
        part, lse = partial_attention(
            q_BRHd[None].expand(2, *q_BRHd.shape).flatten(0, 1), keys, values, scale=self.scale
        )
        part_2PHd, lse_2PH = (x.unflatten(0, (2, B)).flatten(1, 2) for x in (part, lse))
        unsafe_BR = merge(out_BNHd, lse_BNH, rest, part_2PHd, lse_2PH).view(B, N - M)
        write(state, rows, (q_new, k_new, v_new))
        self._afresh(state, rows, q_new)
        return self._refresh(state, rest, unsafe_BR, q_BRHd) / B

    def _afresh(self, state: AttentionState, rows: PackedRows, q_BMHd: Tensor) -> None:
        """Computes rows over all keys and writes their outputs and sums."""
        out, lse = partial_attention(q_BMHd, buffered(state.k_BNHd), buffered(state.v_BNHd), scale=self.scale)
        rows.put(buffered(state.out_BNHd), out.float())
        rows.put(buffered(state.lse_BNH), lse)

    def _refresh(self, state: AttentionState, rest: PackedRows, unsafe_BR: Tensor, q_BRHd: Tensor) -> int:
        """Computes unsafe rows afresh; returns how many there were."""
        total = int(unsafe_BR.sum())
        if total:
            index_BR = rest.flat_P.view(unsafe_BR.shape) % rest.tokens
            for b in range(rest.streams):
                index_1U = index_BR[b][unsafe_BR[b]][None]
                if index_1U.shape[1]:
                    self._afresh(
                        stream_of(state, b), PackedRows.from_index(index_1U, rest.tokens), q_BRHd[b][unsafe_BR[b]][None]
                    )
        return total

    def count_bias(self, ledger: MacLedger, rows: Amount) -> None:
        """See `GlobalLayer.count_bias`; there is none."""

    def count_dense(self, ledger: MacLedger, rows: Amount, keys: float) -> None:
        """Adds attention of some rows over some keys to the ledger."""
        pairs = rows * (keys * self.dim)
        ledger.add("qk", pairs)
        ledger.add("av", pairs)

    def count_exact(self, ledger: MacLedger, rows: Rows) -> None:
        """See `AttentionLayer.count_exact`."""
        self.expect_exact(ledger, rows.counts, rows.tokens)

    def expect_exact(self, ledger: MacLedger, counts: Counts, tokens: int, refreshed: Amount = 0.0) -> None:
        """Adds the cost of an exact update of `counts` tokens per stream to the ledger."""
        dense = (counts >= DENSE_FROM * tokens) * 1.0
        others = tokens - counts
        pairs = dense * tokens**2 + (1 - dense) * (counts * tokens + 2 * others * counts + refreshed * tokens)
        ledger.add("qk", pairs * self.dim)
        ledger.add("av", pairs * self.dim)
        ledger.add("merge", (1 - dense) * (counts > 0) * others * (3.0 * self.dim))


def write(state: AttentionState, rows: Rows, new: tuple[Tensor | None, Tensor, Tensor]) -> None:
    """Puts new queries (unless None), keys and values of the rows into their buffers."""
    q, k, v = new
    if q is not None:
        state.q_BNHd = rows.put(state.q_BNHd, q)
    state.k_BNHd = rows.put(state.k_BNHd, k)
    state.v_BNHd = rows.put(state.v_BNHd, v)


def buffered(tensor: Tensor | None) -> Tensor:
    """The buffer, which must exist.

    Raises:
        ValueError: If the stream has not been flushed yet.
    """
    if tensor is None:
        raise ValueError("this state has no such buffer: it was made by another mode, or has not seen a frame")
    return tensor


def stream_of(state: AttentionState, stream: int) -> AttentionState:
    """One stream's buffers, as views: edits in place reach the whole."""
    one = slice(stream, stream + 1)
    return AttentionState(**{name: None if x is None else x[one] for name, x in vars(state).items()})


def _parts(state: AttentionState, rows: PackedRows, new: QKV) -> Iterator[tuple[AttentionState, Tensor, QKV]]:
    """Splits ragged rows into streams; streams with equal numbers of rows stay together."""
    if rows.index_BM is not None:
        yield state, rows.index_BM, new
        return
    split = [x.split(list(rows.lengths)) for x in new]
    for b, index_M in enumerate(rows.split()):
        yield stream_of(state, b), index_M[None], (split[0][b], split[1][b], split[2][b])


def _complement(rows: PackedRows) -> PackedRows:
    flat_R = torch.logical_not(rows.mask()).reshape(-1).nonzero().squeeze(1)
    return PackedRows(flat_R, [rows.tokens - length for length in rows.lengths], rows.tokens)
