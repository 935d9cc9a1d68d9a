"""The buffers of an attention layer: queries, keys and values as they were last computed.

Shape suffixes: H heads, d channels of a head.
"""

from __future__ import annotations

from torch import Tensor

from eventful.rows import Rows
from eventful.state import AttentionState

QKV = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values (..., H, d)."""


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
