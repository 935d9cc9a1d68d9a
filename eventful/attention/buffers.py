"""The buffers of an attention layer: queries, keys and values as they were last computed.

Shape suffixes: H heads, d channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eventful.rows import Rows
from eventful.state import AttentionState

QKV = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values (..., H, d)."""


@dataclass(frozen=True)
class PaperTypes:
    """In which types the published update of attention keeps and multiplies.

    Attributes:
        stored: Type of the N x N buffers; None for that of the queries.
        product: Type of weights and values from their gates on, and of their running product: float16 as published.
            None for weights as `stored`, multiplied and summed in float32.
    """

    stored: torch.dtype | None = None
    product: torch.dtype | None = None

    def weights(self, logits_BHNK: Tensor) -> Tensor:
        """Softmax of logits, as it is kept."""
        return logits_BHNK.float().softmax(-1).to(self.product or logits_BHNK.dtype)

    @property
    def sums(self) -> torch.dtype:
        """Type in which weights and values are multiplied, and outputs kept."""
        return self.product or torch.float32


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
