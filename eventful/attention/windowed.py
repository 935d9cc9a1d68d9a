"""Attention within square windows (ViTDet, SAM): only windows that hold a changed token are computed again. Exact.

Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (2022), section 3. Windows at the edge
are filled up with padding tokens, which are zero before the qkv projection: their q, k, v are constants (the bias of
the projection), but the tokens of the window do attend to them. In the ledger a window costs S x S pairs whether it
is padded or not; padding costs nothing in the linear layers, which never see it.

Shape suffixes: B streams, N tokens, W windows of one stream, T windows that are computed, S places in a window,
R queries of a window, P selected tokens of all streams, H heads, d channels of a head, A rows plus columns of keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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
        padding: Returns q, k, v (S, H, d) of padding tokens at all places of a window; (1, H, d) where all are alike.
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
        if self._windows.padded:
            real = (token_WS >= 0)[..., None, None]
            taken = [torch.where(real, x, pad) for x, pad in zip(taken, self._padding(), strict=True)]
        q, k, v = (x.flatten(0, 1) for x in taken)
        out_TSHd = self._within(q, k, v, None if self._positions is None else self._positions.all_axes(q))
        return out_TSHd.unflatten(0, (B, -1)).flatten(1, 2)[:, self._windows.slot_N(device)]

    def rows(self, q: Tensor, rows: Rows, state: AttentionState) -> Tensor:
        """See `AttentionLayer.rows`; each row attends to its window."""
        k_BNHd, v_BNHd = buffered(state.k_BNHd), buffered(state.v_BNHd)
        if not isinstance(rows, PackedRows):
            return self.dense(q, k_BNHd, v_BNHd)
        touched_T = self._windows.touched(rows)
        window_P = torch.searchsorted(touched_T, self._windows.flat_cell_P(rows))
        held_T = torch.bincount(window_P, minlength=len(touched_T))
        rank_P = _ranks(window_P, held_T)
        axes_PHA = None
        if self._positions is not None:
            axes_PHA = self._positions.axes(q, self._windows.place_N(q.device)[rows.flat_P % rows.tokens])
        padding = self._padding()[1:] if self._windows.padded else ()
        found: list[tuple[Tensor, Tensor]] = []
        for most, among_T in _by_size(held_T):
            # Where autocast begins or ends in mid-stream, buffers have another type than what is new.
            taken = self._gather(touched_T[among_T], rows.tokens, (k_BNHd, v_BNHd), padding)
            k_TSHd, v_TSHd = (x.to(q.dtype) for x in taken)
            mine = among_T[window_P].nonzero().squeeze(1)
            slots = (among_T.cumsum(0) - 1)[window_P[mine]], rank_P[mine]
            q_TRHd = q.new_zeros(len(k_TSHd), most, *q.shape[1:]).index_put_(slots, q[mine])
            axes_TRHA = None
            if axes_PHA is not None:
                axes_TRHA = axes_PHA.new_zeros(*q_TRHd.shape[:3], axes_PHA.shape[-1]).index_put_(slots, axes_PHA[mine])
            found.append((mine, self._within(q_TRHd, k_TSHd, v_TSHd, axes_TRHA)[slots]))
        mine_P, out_PHd = (torch.cat(parts) for parts in zip(*found, strict=True))
        return out_PHd[mine_P.argsort()]

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
        touched_T = self._windows.touched(rows)
        padding = self._padding() if self._windows.padded else ()
        q, k, v = self._gather(touched_T, rows.tokens, (q_BNHd, k_BNHd, v_BNHd), padding)
        out_TSHd = self._within(q, k, v, None if self._positions is None else self._positions.all_axes(q))
        flat_TS, real_TS = self._tokens(touched_T, rows.tokens)
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

    def _tokens(self, touched_T: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """Flat token indices b * N + n at the places of windows (T, S), and which of them are tokens, not padding."""
        token_TS = self._windows.token_CS(touched_T.device)[touched_T % self._windows.cells]
        start_T = touched_T.div(self._windows.cells, rounding_mode="floor") * tokens
        return token_TS.clamp(min=0) + start_T[:, None], token_TS >= 0

    def _gather(
        self, touched_T: Tensor, tokens: int, buffers: Sequence[Tensor], padding: Sequence[Tensor]
    ) -> list[Tensor]:
        """What windows hold (T, S, H, d) of some buffers, with the padding of each if there is any."""
        flat_TS, real_TS = self._tokens(touched_T, tokens)
        taken = [x.flatten(0, 1)[flat_TS] for x in buffers]
        if padding:
            missing = real_TS.logical_not().nonzero(as_tuple=True)
            for x_TSHd, pad_SHd in zip(taken, padding, strict=True):
                x_TSHd[missing] = pad_SHd.to(x_TSHd.dtype).expand_as(x_TSHd[0])[missing[1]]
        return taken


_LEAST = 16
"""Windows with up to so many queries are one group: fewer of them take as long."""


def _by_size(held_T: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Groups of windows by how many queries they hold: a number that is enough for all of a group, and which they are.

    Changes come in patches: filled up to the fullest window, most queries would be blanks. Numbers double from group to
    group, so that at most half of a group's are, but for those up to `_LEAST`.
    """
    held = held_T.cpu()
    low, highest = 0, int(held.max())
    most = _LEAST
    while low < highest:
        among_T = (held > low) & (held <= most)
        if bool(among_T.any()):
            yield min(most, highest), among_T.to(held_T.device)
        low, most = most, 2 * most


def _ranks(window_P: Tensor, held_T: Tensor) -> Tensor:
    """Rank of each row among those of its window (P,), from 0."""
    order_P = window_P.argsort(stable=True)
    first_P = (held_T.cumsum(0) - held_T)[window_P[order_P]]
    return torch.empty_like(order_P).index_put_((order_P,), torch.arange(len(order_P), device=order_P.device) - first_P)
