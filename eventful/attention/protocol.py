"""What a block needs of its attention: `AttentionLayer`; what the published update needs besides: `GlobalLayer`.

Shape suffixes: B streams, N tokens, K keys, T some of the keys, H heads, d channels of a head.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from eventful.attention.full import QKV
from eventful.macs.ledger import Amount, MacLedger
from eventful.rows import PackedRows, Rows
from eventful.state import AttentionState


class AttentionLayer(Protocol):
    """How tokens attend to each other, and how that is brought up to date.

    Attributes:
        heads: H.
        head_dim: d.
        scale: Of the query-key products.
        dim: H * d.
    """

    heads: int
    head_dim: int
    scale: float
    dim: int

    def dense(self, q_BNHd: Tensor, k_BNHd: Tensor, v_BNHd: Tensor) -> Tensor:
        """Attention of all tokens (B, N, H, d); carries gradients."""
        ...

    def rows(self, q: Tensor, rows: Rows, state: AttentionState) -> Tensor:
        """Attention of the taken rows over the buffered keys, without any update of other rows.

        Args:
            q: Queries of the rows (..., H, d), as `rows.take` shapes them.
            rows: Which rows these are.
            state: With the keys and values of all tokens.

        Returns:
            Attention outputs shaped like q.
        """
        ...

    def flush_exact(self, state: AttentionState) -> None:
        """Attention of all tokens from the buffers, with what `update_exact` goes on from."""
        ...

    def update_exact(self, state: AttentionState, rows: Rows, new: QKV, ledger: MacLedger) -> None:
        """Writes new q, k, v of the rows into the buffers and brings all attention outputs up to date, in place.

        Args:
            state: Buffers of B streams.
            rows: Packed rows, or all rows.
            new: q, k, v of the rows (..., H, d).
            ledger: Takes the cost.
        """
        ...

    def count_dense(self, ledger: MacLedger, rows: Amount, tokens: int) -> None:
        """Adds the attention of some of the tokens over the keys to the ledger."""
        ...

    def count_exact(self, ledger: MacLedger, rows: Rows) -> None:
        """Adds the cost of an exact update of these rows to the ledger, with gradients for masked rows."""
        ...

    def expect_exact(self, ledger: MacLedger, counts: np.ndarray, tokens: int) -> None:
        """Adds the cost of an exact update of `counts` tokens drawn at random, for each entry."""
        ...


@runtime_checkable
class GlobalLayer(AttentionLayer, Protocol):
    """Attention in which all queries meet the same keys: what `attention="paper"` keeps logits and weights of."""

    def keys(self, x_BNHd: Tensor) -> Tensor:
        """Keys or values that queries meet (B, K, H, d), made from those of all tokens: pooled, or as they are."""
        ...

    def key_count(self, tokens: int) -> int:
        """K, for N tokens."""
        ...

    def some_keys(self, x_BNHd: Tensor, key_T: Tensor) -> Tensor:
        """Some of the `keys` (B, T, H, d); a copy."""
        ...

    def key_rows(self, rows: Rows) -> Rows:
        """The keys that change when these rows of tokens do, as rows of a table of K keys."""
        ...

    def expect_keys(self, counts: np.ndarray) -> np.ndarray:
        """How many keys change when `counts` tokens drawn at random do, for each entry."""
        ...

    def bias(self, q_BNHd: Tensor) -> Tensor | None:
        """What is added to the scaled logits of all tokens (B, H, N, K), None for nothing; carries gradients."""
        ...

    def count_bias(self, ledger: MacLedger, rows: Amount) -> None:
        """Adds what the biases of some queries cost to the ledger."""
        ...


def changed_keys(layer: GlobalLayer, rows: PackedRows) -> Tensor:
    """Indices of the keys (T,) that change when these rows of one stream do."""
    changed = layer.key_rows(rows)
    if not isinstance(changed, PackedRows):
        raise TypeError(f"packed rows of tokens change packed rows of keys, got {type(changed).__name__}")
    return changed.flat_P
