"""Exact streaming update of global softmax attention without N x N buffers.

Every row keeps its output and its log-sum-exp. When the tokens in S change their q, k, v, rows in S are computed over
all keys. In all other rows the share of the old k, v of S is replaced by that of the new ones
(`eventful.attention.merge`); rows for which that is not safe are computed afresh.

Shape suffixes: B streams, N tokens, K keys, M selected tokens, T changed keys, R other tokens, P selected tokens of all
streams, H heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eventful.attention import paper
from eventful.attention.buffers import QKV, PaperTypes, buffered, write
from eventful.attention.kernels import partial_attention
from eventful.attention.merge import merge
from eventful.attention.protocol import GlobalLayer, changed_keys
from eventful.macs.ledger import Amount, MacLedger
from eventful.rows import AllRows, Counts, PackedRows, Rows
from eventful.state import AttentionState
from eventful.tensor_tree import stream_of

DENSE_FROM = (22, 25)
"""Share of the dense query-key pairs, as a fraction, from which dense attention is faster than an update.

Merging and small kernels cost the rest. Without pooling the update takes (M N + 2 (N - M) M) pairs of N N: dense takes
over at M = 0.4 N (measured in docs/lab-notes.md).
"""


class FullAttention(GlobalLayer):
    """Every token attends to every token."""

    batched = True
    """Whether streams that select equally many tokens can share their kernel calls."""

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

    def dense(self, q_BNHd: Tensor, k_BNHd: Tensor, v_BNHd: Tensor) -> Tensor:
        """See `AttentionLayer.dense`."""
        return self._attend(q_BNHd, self.keys(k_BNHd), self.keys(v_BNHd), self.bias(q_BNHd))

    def rows(self, q: Tensor, rows: Rows, state: AttentionState) -> Tensor:
        """See `AttentionLayer.rows`."""
        k_BNHd, v_BNHd = buffered(state.k_BNHd), buffered(state.v_BNHd)
        if not isinstance(rows, PackedRows):
            return self.dense(q, k_BNHd, v_BNHd)
        k_BKHd, v_BKHd = self.keys(k_BNHd), self.keys(v_BNHd)
        if self.batched and rows.index_BM is not None:
            q_BMHd = q.view(rows.streams, -1, *q.shape[1:])
            return self._attend(q_BMHd, k_BKHd, v_BKHd, None).reshape(q.shape)
        parts = [
            self._attend(q_MHd[None], k_BKHd[b : b + 1], v_BKHd[b : b + 1], self._bias_of_queries(q_MHd, index_M))[0]
            for b, (q_MHd, index_M) in enumerate(zip(q.split(list(rows.lengths)), rows.split(), strict=True))
        ]
        return torch.cat(parts)

    def flush_exact(self, state: AttentionState) -> None:
        """See `AttentionLayer.flush_exact`."""
        out, lse = self._all_rows(state)
        state.out_BNHd, state.lse_BNH = out.float().contiguous(), lse.contiguous()

    def update_exact(self, state: AttentionState, rows: Rows, new: QKV | None, ledger: MacLedger) -> Tensor:
        """See `AttentionLayer.update_exact`."""
        if not isinstance(rows, PackedRows) or state.out_BNHd is None:
            if new is not None:
                write(state, rows, new)
            self.flush_exact(state)
            self.count_dense(ledger, float(rows.tokens), rows.tokens)
        elif new is not None:
            refreshed_B = np.concatenate([self._update(*part) for part in self._parts(state, rows, new)])
            self._count(ledger, rows.counts, self.key_rows(rows).counts, rows.tokens, refreshed_B)
        return buffered(state.out_BNHd)

    def update_paper(
        self, state: AttentionState, rows: Rows, new: QKV | None, ledger: MacLedger, types: PaperTypes
    ) -> Tensor:
        """See `AttentionLayer.update_paper`."""
        if new is not None:
            paper.update_paper(self, state, rows, new, ledger, types)
        return buffered(state.out_BNHd)

    def blend_paper(self, state: AttentionState, rows: Rows, new: QKV, ledger: MacLedger, types: PaperTypes) -> Tensor:
        """See `AttentionLayer.blend_paper`."""
        if isinstance(rows, AllRows):
            self.count_dense(ledger, float(rows.tokens), rows.tokens)
        else:
            paper.count_paper(self, ledger, rows)
        return paper.blend_paper(self, state, rows, new, types)

    def count_bias(self, ledger: MacLedger, rows: Amount) -> None:
        """See `GlobalLayer.count_bias`; there is none."""

    def count_dense(self, ledger: MacLedger, rows: Amount, tokens: int) -> None:
        """See `AttentionLayer.count_dense`."""
        self._count_pairs(ledger, rows, rows * float(self.key_count(tokens)))

    def count_exact(self, ledger: MacLedger, rows: Rows) -> None:
        """See `AttentionLayer.count_exact`."""
        self._count(ledger, rows.counts, self.key_rows(rows).counts, rows.tokens)

    def expect_exact(self, ledger: MacLedger, counts: np.ndarray, tokens: int) -> None:
        """See `AttentionLayer.expect_exact`."""
        self._count(ledger, counts, self.expect_keys(counts), tokens)

    def expect_paper(self, ledger: MacLedger, counts: np.ndarray, tokens: int) -> None:
        """See `AttentionLayer.expect_paper`."""
        paper.expect_paper(self, ledger, counts, tokens)

    def _update(self, state: AttentionState, index_BM: Tensor, new: QKV) -> np.ndarray:
        """The update of streams with equally many selected rows; returns how many others were refreshed (B,)."""
        B, M = index_BM.shape
        out_BNHd, lse_BNH = buffered(state.out_BNHd), buffered(state.lse_BNH)
        N = out_BNHd.shape[1]
        if M == 0:
            return np.zeros(B)
        rows = PackedRows.from_index(index_BM, N)
        changed = changed_keys(self, rows)
        if self._is_dense(float(M), float(changed.lengths[0]), N):
            write(state, rows, new)
            out, lse = self._all_rows(state)
            # The state may be a view of one stream: what was computed goes into the whole.
            out_BNHd.copy_(out)
            lse_BNH.copy_(lse)
            return np.zeros(B)

        q_new, k_new, v_new = (x.view(B, M, self.heads, self.head_dim) for x in new)
        old = self._changing(state, changed)
        write(state, rows, (q_new, k_new, v_new))
        now = (k_new, v_new) if changed is rows else self._changing(state, changed)
        self._remember(state, rows, q_new)
        rest = _complement(rows)
        q_BRHd = rest.take(buffered(state.q_BNHd)).unflatten(0, (B, N - M))
        # One kernel call for the old and the new keys: the work of small M fills the cores better.
        keys, values = (torch.cat(pair) for pair in zip(old, now, strict=True))
        bias = self._bias_of_rows(state, rest, changed)
        part, lse = partial_attention(
            q_BRHd[None].expand(2, *q_BRHd.shape).flatten(0, 1),
            keys,
            values,
            None if bias is None else bias.expand(2, -1, -1, -1),
            self.scale,
        )
        part_2PHd, lse_2PH = (x.unflatten(0, (2, B)).flatten(1, 2) for x in (part, lse))
        unsafe_BR = merge(out_BNHd, lse_BNH, rest, part_2PHd, lse_2PH).view(B, N - M)
        self._afresh(state, rows, q_new)
        return self._refresh(state, rest, unsafe_BR, q_BRHd)

    def _refresh(self, state: AttentionState, rest: PackedRows, unsafe_BR: Tensor, q_BRHd: Tensor) -> np.ndarray:
        """Computes unsafe rows afresh; returns how many there were (B,)."""
        count_B = unsafe_BR.sum(1).cpu().numpy()
        index_BR = rest.flat_P.view(unsafe_BR.shape) % rest.tokens
        for b in count_B.nonzero()[0].tolist():
            rows = PackedRows.from_index(index_BR[b][unsafe_BR[b]][None], rest.tokens)
            self._afresh(stream_of(state, b), rows, q_BRHd[b][unsafe_BR[b]][None])
        return count_B

    def _afresh(self, state: AttentionState, rows: PackedRows, q_BMHd: Tensor) -> None:
        """Computes rows over all keys and writes their outputs and sums."""
        k_BKHd, v_BKHd = self.keys(buffered(state.k_BNHd)), self.keys(buffered(state.v_BNHd))
        out, lse = partial_attention(q_BMHd, k_BKHd, v_BKHd, self._bias_of_rows(state, rows, None), self.scale)
        rows.put(buffered(state.out_BNHd), out.float())
        rows.put(buffered(state.lse_BNH), lse)

    def _all_rows(self, state: AttentionState) -> tuple[Tensor, Tensor]:
        """Outputs and sums of all rows from the buffers."""
        q, k, v = buffered(state.q_BNHd), buffered(state.k_BNHd), buffered(state.v_BNHd)
        return partial_attention(q, self.keys(k), self.keys(v), self._bias_of_all(state), self.scale)

    def _changing(self, state: AttentionState, changed: PackedRows) -> tuple[Tensor, Tensor]:
        """Keys and values that change (B, T, H, d), as they are now."""
        k, v = (changed.take(buffered(x)) for x in (state.k_BNHd, state.v_BNHd))
        return k.unflatten(0, (changed.streams, -1)), v.unflatten(0, (changed.streams, -1))

    def _remember(self, state: AttentionState, rows: PackedRows, q_BMHd: Tensor) -> None:
        """Keeps what biases need of new queries."""

    def _bias_of_all(self, state: AttentionState) -> Tensor | None:
        """Biases of all queries against all keys; keeps what later slices need."""
        return None

    def _bias_of_rows(self, state: AttentionState, rows: PackedRows, changed: PackedRows | None) -> Tensor | None:
        """Biases of some queries against the changed keys, or against all (None), from what was kept."""
        return None

    def _bias_of_queries(self, q_MHd: Tensor, index_M: Tensor) -> Tensor | None:
        """Biases of some queries of one stream against all keys, from the queries themselves."""
        return None

    def _attend(self, q_BMHd: Tensor, k_BKHd: Tensor, v_BKHd: Tensor, bias: Tensor | None) -> Tensor:
        # Where autocast begins or ends in mid-stream, buffers have another type than what is new.
        q, k, v = (x.transpose(1, 2).to(q_BMHd.dtype) for x in (q_BMHd, k_BKHd, v_BKHd))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale).transpose(1, 2)

    def _parts(self, state: AttentionState, rows: PackedRows, new: QKV) -> Iterator[tuple[AttentionState, Tensor, QKV]]:
        """Splits rows into streams; streams with equal numbers of rows stay together if they can."""
        if rows.index_BM is not None and (self.batched or rows.streams == 1):
            yield state, rows.index_BM, new
            return
        split = [x.split(list(rows.lengths)) for x in new]
        for b, index_M in enumerate(rows.split()):
            yield stream_of(state, b), index_M[None], (split[0][b], split[1][b], split[2][b])

    def _is_dense(self, selected: Amount, changed: Amount, tokens: int) -> Amount:
        """Whether dense attention is no slower than the update."""
        keys, (top, bottom) = self.key_count(tokens), DENSE_FROM
        return bottom * (selected * keys + 2 * (tokens - selected) * changed) >= top * tokens * keys

    def _count(
        self, ledger: MacLedger, selected: Counts, changed: Counts, tokens: int, refreshed: Amount = 0.0
    ) -> None:
        keys, others = self.key_count(tokens), tokens - selected
        dense = self._is_dense(selected, changed, tokens) * 1.0
        pairs = (selected + refreshed) * keys + 2 * others * changed
        self._count_pairs(
            ledger, dense * tokens + (1 - dense) * selected, dense * (tokens * keys) + (1 - dense) * pairs
        )
        ledger.add("merge", (1 - dense) * (selected > 0) * others * (3.0 * self.dim))

    def _count_pairs(self, ledger: MacLedger, rows: Amount, pairs: Amount) -> None:
        ledger.add("qk", pairs * self.dim)
        ledger.add("av", pairs * self.dim)
        self.count_bias(ledger, rows)


def _complement(rows: PackedRows) -> PackedRows:
    flat_R = torch.logical_not(rows.mask()).reshape(-1).nonzero().squeeze(1)
    return PackedRows(flat_R, [rows.tokens - length for length in rows.lengths], rows.tokens)
