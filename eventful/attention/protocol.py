"""What a block needs of its attention: `AttentionLayer`; what the published update needs besides: `GlobalLayer`.

A layer is brought up to date in one of three modes: `exact`, `paper` (N x N buffers, of global layers alone) and
`recompute` (dense attention from the buffers). Each mode has a packed form, which edits the state in place, and a
masked one, which carries gradients; the ledger has the cost of the packed form in both.

Shape suffixes: B streams, N tokens, K keys, T some of the keys, H heads, d channels of a head.
"""

from __future__ import annotations

import abc

import numpy as np
from torch import Tensor

from eventful.attention.buffers import QKV, PaperTypes, buffered, write
from eventful.macs.ledger import Amount, MacLedger
from eventful.rows import PackedRows, Rows
from eventful.state import AttentionState


class AttentionLayer(abc.ABC):
    """How tokens attend to each other, and how that is brought up to date.

    Args:
        heads: H.
        head_dim: d.
        scale: Factor of the query-key products.

    Attributes:
        dim: H * d.
    """

    fixed_shapes = True
    """Whether the shapes within `rows` depend on how many rows there are, and not on which."""

    def __init__(self, heads: int, head_dim: int, scale: float) -> None:
        self.heads, self.head_dim, self.scale = heads, head_dim, scale
        self.dim = heads * head_dim

    @abc.abstractmethod
    def dense(self, q_BNHd: Tensor, k_BNHd: Tensor, v_BNHd: Tensor) -> Tensor:
        """Attention of all tokens (B, N, H, d); carries gradients."""

    @abc.abstractmethod
    def rows(self, q: Tensor, rows: Rows, state: AttentionState) -> Tensor:
        """Attention of the taken rows over the buffered keys, without any update of other rows.

        Args:
            q: Queries of the rows (..., H, d), as `rows.take` shapes them.
            rows: Which rows these are.
            state: With the keys and values of all tokens.

        Returns:
            Attention outputs shaped like q.
        """

    @abc.abstractmethod
    def flush_exact(self, state: AttentionState) -> None:
        """Attention of all tokens from the buffers, with what `update_exact` goes on from."""

    @abc.abstractmethod
    def update_exact(self, state: AttentionState, rows: Rows, new: QKV | None, ledger: MacLedger) -> Tensor:
        """Writes new q, k, v of the rows into the buffers and brings all attention outputs up to date, in place.

        Args:
            state: Buffers of B streams.
            rows: Packed rows, or all rows.
            new: q, k, v of the rows (..., H, d); None if there are no rows.
            ledger: Takes the cost.

        Returns:
            Attention outputs of all tokens (B, N, H, d).
        """

    @abc.abstractmethod
    def count_dense(self, ledger: MacLedger, rows: Amount, tokens: int) -> None:
        """Adds the attention of some of the tokens over the keys to the ledger."""

    @abc.abstractmethod
    def count_exact(self, ledger: MacLedger, rows: Rows) -> None:
        """Adds the cost of an exact update of these rows to the ledger, with gradients for masked rows."""

    @abc.abstractmethod
    def expect_exact(self, ledger: MacLedger, counts: np.ndarray, tokens: int) -> None:
        """Adds the cost of an exact update of `counts` tokens drawn at random, for each entry."""

    def recompute(self, state: AttentionState, rows: Rows, new: QKV | None, ledger: MacLedger) -> Tensor:
        """Writes new q, k, v of the rows into the buffers; dense attention (B, N, H, d) from them."""
        if new is not None:
            write(state, rows, new)
        self.count_dense(ledger, float(rows.tokens), rows.tokens)
        return self.dense(buffered(state.q_BNHd), buffered(state.k_BNHd), buffered(state.v_BNHd))

    def blend(self, state: AttentionState, rows: Rows, new: QKV) -> Tensor:
        """The masked form of `update_exact` and `recompute`: dense attention (B, N, H, d) on blended buffers."""
        write(state, rows, new)
        # A packed frame may follow: it must not go on from sums that know nothing of this one.
        state.out_BNHd = state.lse_BNH = state.axes_BNHA = None
        return self.dense(buffered(state.q_BNHd), buffered(state.k_BNHd), buffered(state.v_BNHd))

    def update_paper(
        self, state: AttentionState, rows: Rows, new: QKV | None, ledger: MacLedger, types: PaperTypes
    ) -> Tensor:
        """The published update; layers without a global set of keys are token-wise only, as in the paper.

        Args:
            state: Buffers of B streams.
            rows: Packed rows, or all rows.
            new: q, k, v of the rows (..., H, d); None if there are no rows.
            ledger: Takes the cost.
            types: What is kept and multiplied in which type.

        Returns:
            Attention outputs of all tokens (B, N, H, d).
        """
        return self.recompute(state, rows, new, ledger)

    def blend_paper(self, state: AttentionState, rows: Rows, new: QKV, ledger: MacLedger, types: PaperTypes) -> Tensor:
        """The masked form of `update_paper`, which see for arguments."""
        self.count_dense(ledger, float(rows.tokens), rows.tokens)
        return self.blend(state, rows, new)

    def expect_paper(self, ledger: MacLedger, counts: np.ndarray, tokens: int) -> None:
        """Adds the cost of the published update of `counts` tokens drawn at random, for each entry."""
        self.count_dense(ledger, float(tokens), tokens)


class GlobalLayer(AttentionLayer):
    """Attention in which all queries meet the same keys: what `attention="paper"` keeps logits and weights of."""

    @abc.abstractmethod
    def keys(self, x_BNHd: Tensor) -> Tensor:
        """Keys or values that queries meet (B, K, H, d), made from those of all tokens: pooled, or as they are."""

    @abc.abstractmethod
    def key_count(self, tokens: int) -> int:
        """K, for N tokens."""

    @abc.abstractmethod
    def some_keys(self, x_BNHd: Tensor, key_T: Tensor) -> Tensor:
        """Some of the `keys` (B, T, H, d); a copy."""

    @abc.abstractmethod
    def key_rows(self, rows: Rows) -> Rows:
        """The keys that change when these rows of tokens do, as rows of a table of K keys."""

    @abc.abstractmethod
    def expect_keys(self, counts: np.ndarray) -> np.ndarray:
        """How many keys change when `counts` tokens drawn at random do, for each entry."""

    @abc.abstractmethod
    def bias(self, q_BNHd: Tensor) -> Tensor | None:
        """What is added to the scaled logits of all tokens (B, H, N, K), None for nothing; carries gradients."""

    @abc.abstractmethod
    def count_bias(self, ledger: MacLedger, rows: Amount) -> None:
        """Adds what the biases of some queries cost to the ledger."""


def changed_keys(layer: GlobalLayer, rows: PackedRows) -> PackedRows:
    """The keys that change when these rows do, as packed rows of a table of K keys."""
    changed = layer.key_rows(rows)
    if not isinstance(changed, PackedRows):
        raise TypeError(f"packed rows of tokens change packed rows of keys, got {type(changed).__name__}")
    return changed
