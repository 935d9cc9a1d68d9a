"""The published update of attention, on N x N buffers that are brought up to date in rows and columns.

Eventful Transformers, section 3.2. *Query-key product*: B = q k^T is kept; rows of changed queries and columns of
changed keys are computed. *Attention-value product*: a running sum; for the changed tokens j, with A_d = A_new - A_old
and v_d = v_new - v_old,

    out += A_new[:, j] v_d[j] + A_d[:, j] v_old[j],    v_old = v_new - v_d.

Softmax changes every column of A, but only the columns j are brought up to date. So `out` is A_eff v, where column j
of A_eff is from the frame in which token j was last updated: an approximation, unlike `eventful.attention`. One
selection, the qkv gate's, serves q, k and v, as in the authors' code. Both updates cost 2 N M D instead of N^2 D.

The buffers can be kept in half precision. A is rounded before it is used, so that the sum stays A_eff v of the
stored A_eff.

Shape suffixes: B streams, N tokens, M selected tokens, H heads, d channels of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eventful.attention import QKV, buffered, stream_of, write
from eventful.layer import AttentionLayer
from eventful.ledger import MacLedger
from eventful.rows import Counts, PackedRows, Rows
from eventful.state import AttentionState


def update_paper(
    attention: AttentionLayer,
    state: AttentionState,
    rows: Rows,
    new: QKV,
    ledger: MacLedger,
    stored: torch.dtype | None = None,
) -> None:
    """Writes new q, k, v of the rows and brings the N x N buffers and the sums up to date, in place.

    Args:
        attention: Geometry of the layer.
        state: Buffers of B streams.
        rows: Packed rows, or all rows (a flush).
        new: q, k, v of the rows (..., H, d).
        ledger: Takes the cost.
        stored: Type of the N x N buffers; None for the type of q.
    """
    if not isinstance(rows, PackedRows) or state.weights_BHNN is None:
        write(state, rows, new)
        state.logits_BHNN, state.weights_BHNN, state.out_BNHd = _afresh(attention, state, stored)
        attention.count_dense(ledger, float(rows.tokens), rows.tokens)
        return
    split = [x.split(list(rows.lengths)) for x in new]
    for b, index_M in enumerate(rows.split()):
        one, new_b = stream_of(state, b), (split[0][b], split[1][b], split[2][b])
        if len(index_M) == rows.tokens:
            _flush_one(attention, one, index_M, new_b, stored)
        elif len(index_M):
            _update_one(attention, one, index_M, new_b)
    count_paper(attention, ledger, rows.counts, rows.tokens)


def blend_paper(
    attention: AttentionLayer, state: AttentionState, rows: Rows, new: QKV, stored: torch.dtype | None = None
) -> Tensor:
    """The same for masked rows, differentiable: A_eff[:, j] <- m_j A_new[:, j] + (1 - m_j) A_eff[:, j].

    Returns:
        Attention outputs A_eff v of all tokens (B, N, H, d).
    """
    write(state, rows, new)
    logits_BHNN, weights_BHNN, _ = _afresh(attention, state, stored)
    if state.weights_BHNN is not None:
        # `put` blends along dimension 1: here the columns, which are keys.
        weights_BHNN = rows.put(state.weights_BHNN.transpose(1, 3), weights_BHNN.transpose(1, 3)).transpose(1, 3)
    v_BHNd = buffered(state.v_BNHd).transpose(1, 2)
    state.logits_BHNN, state.weights_BHNN = logits_BHNN, weights_BHNN
    state.out_BNHd = (weights_BHNN.float() @ v_BHNd.float()).transpose(1, 2)
    return state.out_BNHd.to(v_BHNd.dtype)


def count_paper(attention: AttentionLayer, ledger: MacLedger, counts: Counts, tokens: int) -> None:
    """Adds the cost of the published update of `counts` tokens per stream to the ledger."""
    full = (counts >= tokens) * 1.0
    pairs = full * tokens**2 + (1 - full) * 2 * counts * tokens
    ledger.add("qk", pairs * attention.dim)
    ledger.add("av", pairs * attention.dim)
    ledger.add("merge", (1 - full) * (counts > 0) * (counts + 2.0 * tokens) * attention.dim)


def _afresh(
    attention: AttentionLayer, state: AttentionState, stored: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, weights (both as stored) and outputs (float32) from the buffered q, k, v."""
    q, k, v = (buffered(x).transpose(1, 2) for x in (state.q_BNHd, state.k_BNHd, state.v_BNHd))
    logits_BHNN = ((q * attention.scale) @ k.transpose(-2, -1)).to(stored or q.dtype)
    weights_BHNN = logits_BHNN.float().softmax(-1).to(logits_BHNN.dtype)
    return logits_BHNN, weights_BHNN, (weights_BHNN.float() @ v.float()).transpose(1, 2).contiguous()


def _flush_one(
    attention: AttentionLayer, state: AttentionState, index_M: Tensor, new: QKV, stored: torch.dtype | None
) -> None:
    """A flush of one stream, in place."""
    write(state, PackedRows.from_index(index_M[None], len(index_M)), new)
    buffers = (state.logits_BHNN, state.weights_BHNN, state.out_BNHd)
    for buffer, value in zip(buffers, _afresh(attention, state, stored), strict=True):
        buffered(buffer).copy_(value)


def _update_one(attention: AttentionLayer, state: AttentionState, index_M: Tensor, new: QKV) -> None:
    """The published update of one stream, in place."""
    q_BNHd, k_BNHd, v_BNHd = buffered(state.q_BNHd), buffered(state.k_BNHd), buffered(state.v_BNHd)
    logits_HNN, weights_HNN = buffered(state.logits_BHNN)[0], buffered(state.weights_BHNN)[0]
    v_old_HMd = v_BNHd[0, index_M].transpose(0, 1).float()
    write(state, PackedRows.from_index(index_M[None], q_BNHd.shape[1]), new)

    q_HNd, k_HNd = q_BNHd[0].transpose(0, 1) * attention.scale, k_BNHd[0].transpose(0, 1)
    rows_HMN = q_HNd[:, index_M] @ k_HNd.transpose(1, 2)
    columns_HNM = q_HNd @ k_HNd[:, index_M].transpose(1, 2)
    logits_HNN.index_copy_(1, index_M, rows_HMN.to(logits_HNN.dtype))
    logits_HNN.index_copy_(2, index_M, columns_HNM.to(logits_HNN.dtype))

    lse_HN = logits_HNN.float().logsumexp(-1)
    now_HNM = torch.exp(logits_HNN[:, :, index_M].float() - lse_HN[..., None]).to(weights_HNN.dtype)
    change_HNM = now_HNM.float() - weights_HNN[:, :, index_M].float()
    v_change_HMd = new[2].transpose(0, 1).float() - v_old_HMd
    out_HNd = buffered(state.out_BNHd)[0].transpose(0, 1)
    out_HNd += now_HNM.float() @ v_change_HMd
    out_HNd += change_HNM @ v_old_HMd
    weights_HNN.index_copy_(2, index_M, now_HNM)
