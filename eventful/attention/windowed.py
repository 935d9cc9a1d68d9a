"""Attention within square windows (ViTDet, SAM): only windows that hold a changed token are computed again. Exact.

Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (2022), section 3. Windows at the edge
are filled up with padding tokens, which are zero before the qkv projection: their q, k, v are constants (the bias of
the projection), but the tokens of the window do attend to them. In the ledger a window costs S x S pairs whether it
is padded or not; padding costs nothing in the linear layers, which never see it.

Shape suffixes: B streams, N tokens, W windows of one stream, T windows that are computed, S places in a window,
R queries of a window, P selected tokens of all streams, H heads, d channels of a head, A rows plus columns of keys.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eventful.attention.buffers import QKV, buffered, write
from eventful.attention.cells import Cells
from eventful.attention.protocol import AttentionLayer
from eventful.attention.relative import RelativePositions
from eventful.macs.ledger import Amount, MacLedger
from eventful.rows import PackedRows, Rows
from eventful.state import AttentionState


class WindowedAttention(AttentionLayer):
    """Every token attends to its window.

    Args:
        heads: H.
        head_dim: d.
        scale: Factor of the query-key products.
        windows: How the grid falls into windows; there are no prefix tokens.
        padding: Returns q, k, v (S, H, d) of padding tokens at all places of a window.
        positions: Relative positions in a window, or None.
    """

    fixed_shapes = False
    """How many windows are touched depends on where the rows are."""

    def __init__(
        self,
        heads: int,
        head_dim: int,
        scale: float,
        windows: Cells,
        padding: Callable[[], QKV],
        positions: RelativePositions | None,
    ) -> None:
        super().__init__(heads, head_dim, scale)
        self._windows, self._padding, self._positions = windows, padding, positions

    def dense(self, q_BNHd: Tensor, k_BNHd: Tensor, v_BNHd: Tensor) -> Tensor:
        """See `AttentionLayer.dense`."""
        B, device = q_BNHd.shape[0], q_BNHd.device
        token_WS = self._windows.token_CS(device)
        taken = [x[:, token_WS.clamp(min=0)] for x in (q_BNHd, k_BNHd, v_BNHd)]
        q, k, v = (x.flatten(0, 1) for x in self._padded(taken, token_WS))
        out_TSHd = self._within(q, k, v, None if self._positions is None else self._positions.all_axes(q))
        return out_TSHd.unflatten(0, (B, -1)).flatten(1, 2)[:, self._windows.slot_N(device)]

    def rows(self, q: Tensor, rows: Rows, state: AttentionState) -> Tensor:
        """See `AttentionLayer.rows`; each row attends to its window."""
        k_BNHd, v_BNHd = buffered(state.k_BNHd), buffered(state.v_BNHd)
        if not isinstance(rows, PackedRows):
            return self.dense(q, k_BNHd, v_BNHd)
        touched_T, k_TSHd, v_TSHd = self._gather(rows, k_BNHd, v_BNHd)
        # Queries are sorted into (window, rank in the window), with blanks where a window has fewer than the most.
        window_P = torch.searchsorted(touched_T, self._windows.flat_cell_P(rows))
        order_P = window_P.argsort(stable=True)
        held_T = torch.bincount(window_P, minlength=len(touched_T))
        rank_P = torch.empty_like(order_P)
        first_P = (held_T.cumsum(0) - held_T)[window_P[order_P]]
        rank_P[order_P] = torch.arange(len(order_P), device=q.device) - first_P
        q_TRHd = q.new_zeros(len(touched_T), int(held_T.max()), self.heads, self.head_dim)
        q_TRHd[window_P, rank_P] = q
        axes_TRHA = None
        if self._positions is not None:
            place_P = self._windows.place_N(q.device)[rows.flat_P % rows.tokens]
            axes_PHA = self._positions.axes(q, place_P)
            axes_TRHA = q.new_zeros(*q_TRHd.shape[:3], axes_PHA.shape[-1])
            axes_TRHA[window_P, rank_P] = axes_PHA
        return self._within(q_TRHd, k_TSHd, v_TSHd, axes_TRHA)[window_P, rank_P]

    def flush_exact(self, state: AttentionState) -> None:
        """See `AttentionLayer.flush_exact`."""
        q, k, v = buffered(state.q_BNHd), buffered(state.k_BNHd), buffered(state.v_BNHd)
        state.out_BNHd = self.dense(q, k, v).float().contiguous()

    def update_exact(self, state: AttentionState, rows: Rows, new: QKV | None, ledger: MacLedger) -> Tensor:
        """See `AttentionLayer.update_exact`."""
        if new is not None:
            write(state, rows, new)
        if not isinstance(rows, PackedRows) or state.out_BNHd is None:
            self.flush_exact(state)
            self.count_dense(ledger, float(rows.tokens), rows.tokens)
        elif not rows.empty:
            self.count_exact(ledger, rows)
            self._update(state, rows)
        return buffered(state.out_BNHd)

    def _update(self, state: AttentionState, rows: PackedRows) -> None:
        """Computes the windows that hold one of the rows, from the buffers."""
        q_BNHd, k_BNHd, v_BNHd = buffered(state.q_BNHd), buffered(state.k_BNHd), buffered(state.v_BNHd)
        touched_T, q, k, v = self._gather(rows, q_BNHd, k_BNHd, v_BNHd)
        out_TSHd = self._within(q, k, v, None if self._positions is None else self._positions.all_axes(q))
        flat_TS, real_TS = self._tokens(touched_T, rows)
        out = buffered(state.out_BNHd).flatten(0, 1)
        if self._windows.padded:
            out.index_copy_(0, flat_TS[real_TS], out_TSHd[real_TS].float())
        else:
            out.index_copy_(0, flat_TS.flatten(), out_TSHd.flatten(0, 1).float())

    def count_dense(self, ledger: MacLedger, rows: Amount, tokens: int) -> None:
        """See `AttentionLayer.count_dense`; padding queries are computed and counted along with the rest."""
        self._count(ledger, rows * (self._windows.cells / tokens))

    def count_exact(self, ledger: MacLedger, rows: Rows) -> None:
        """See `AttentionLayer.count_exact`; all of a touched window is computed."""
        self._count(ledger, self._windows.rows(rows).counts)

    def expect_exact(self, ledger: MacLedger, counts: np.ndarray, tokens: int) -> None:
        """See `AttentionLayer.expect_exact`."""
        self._count(ledger, self._windows.expect(counts))

    def _count(self, ledger: MacLedger, windows: Amount) -> None:
        queries = windows * float(self._windows.places)
        pairs = queries * float(self._windows.places)
        ledger.add("qk", pairs * self.dim)
        ledger.add("av", pairs * self.dim)
        if self._positions is not None:
            ledger.add("bias", self._positions.macs(queries, self.dim))

    def _within(self, q_TRHd: Tensor, k_TSHd: Tensor, v_TSHd: Tensor, axes_TRHA: Tensor | None) -> Tensor:
        """Attention of queries over all places of their window (T, R, H, d)."""
        bias = None
        if self._positions is not None and axes_TRHA is not None:
            bias = self._positions.bias(axes_TRHA)
        q, k, v = (x.transpose(1, 2) for x in (q_TRHd, k_TSHd, v_TSHd))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale).transpose(1, 2)

    def _tokens(self, touched_T: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Flat token indices b * N + n at the places of windows (T, S), and which of them are tokens, not padding."""
        token_TS = self._windows.token_CS(touched_T.device)[touched_T % self._windows.cells]
        start_T = touched_T.div(self._windows.cells, rounding_mode="floor") * rows.tokens
        return token_TS.clamp(min=0) + start_T[:, None], token_TS >= 0

    def _gather(self, rows: PackedRows, *buffers: Tensor) -> tuple[Tensor, ...]:
        """The touched windows, and for each of q, k, v buffers (the last of them) their contents (T, S, H, d)."""
        touched_T = self._windows.touched(rows)
        flat_TS, real_TS = self._tokens(touched_T, rows)
        taken = [x.flatten(0, 1)[flat_TS] for x in buffers]
        return touched_T, *self._padded(taken, torch.where(real_TS, 0, -1))

    def _padded(self, taken: list[Tensor], token_S: Tensor) -> list[Tensor]:
        """Fills in padding where the token index is negative; q, k, v or k, v (..., S, H, d)."""
        if not self._windows.padded:
            return taken
        fill = self._padding()[-len(taken) :]
        return [torch.where((token_S >= 0)[..., None, None], x, pad) for x, pad in zip(taken, fill, strict=True)]
