"""The published update of attention, on N x N buffers that are brought up to date in rows and columns.

Eventful Transformers, section 3.2. *Query-key product*: B = q k^T is kept; rows of changed queries and columns of
changed keys are computed. *Attention-value product*: a running sum; for the changed tokens j, with A_d = A_new - A_old
and v_d = v_new - v_old,

    out += A_new[:, j] v_d[j] + A_d[:, j] v_old[j],    v_old = v_new - v_d.

Softmax changes every column of A, but only the columns j are brought up to date. So `out` is A_eff v, where column j
of A_eff is from the frame in which token j was last updated: an approximation, unlike `eventful.attention.full`. One
selection, the qkv gate's, serves q, k and v, as in the authors' code. Both updates cost 2 N M D instead of N^2 D.

The buffers can be kept in half precision. A is rounded before it is used, so that the sum stays A_eff v of the
stored A_eff. The published runs cast A and v to float16 from their gates on, and sum in float16 (`PaperTypes.product`).

With pooled keys the buffers are N x K, and the keys that change are the cells with a changed token.

Shape suffixes: B streams, N tokens, K keys, M selected tokens, T changed keys, H heads, d channels of a head.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from eventful.attention.buffers import QKV, PaperTypes, buffered, write
from eventful.attention.protocol import GlobalLayer, changed_keys
from eventful.macs.ledger import MacLedger
from eventful.rows import Counts, PackedRows, Rows
from eventful.state import AttentionState
from eventful.tensor_tree import stream_of

AS_TOKENS = PaperTypes()
"""Buffers in the type of the tokens, sums in float32."""


def update_paper(
    attention: GlobalLayer,
    state: AttentionState,
    rows: Rows,
    new: QKV,
    ledger: MacLedger,
    types: PaperTypes = AS_TOKENS,
) -> None:
    """Writes new q, k, v of the rows and brings the N x N buffers and the sums up to date, in place.

    Args:
        attention: Geometry of the layer.
        state: Buffers of B streams.
        rows: Packed rows, or all rows (a flush).
        new: q, k, v of the rows (..., H, d).
        ledger: Takes the cost.
        types: What is kept and multiplied in which type.
    """
    if not isinstance(rows, PackedRows) or state.weights_BHNK is None:
        write(state, rows, new)
        state.logits_BHNK, state.weights_BHNK, state.out_BNHd = _afresh(attention, state, types)
        attention.count_dense(ledger, float(rows.tokens), rows.tokens)
        return
    split = [x.split(list(rows.lengths)) for x in new]
    for b, index_M in enumerate(rows.split()):
        one, new_b = stream_of(state, b), (split[0][b], split[1][b], split[2][b])
        if len(index_M) == rows.tokens:
            _flush_one(attention, one, index_M, new_b, types)
        elif len(index_M):
            _update_one(attention, one, index_M, new_b, types)
    count_paper(attention, ledger, rows)


def blend_paper(
    attention: GlobalLayer, state: AttentionState, rows: Rows, new: QKV, types: PaperTypes = AS_TOKENS
) -> Tensor:
    """The same for masked rows, differentiable: A_eff[:, j] <- m_j A_new[:, j] + (1 - m_j) A_eff[:, j].

    Returns:
        Attention outputs A_eff v of all tokens (B, N, H, d).
    """
    write(state, rows, new)
    logits_BHNK, weights_BHNK, _ = _afresh(attention, state, types)
    if state.weights_BHNK is not None:
        # `put` blends along dimension 1: here the columns, which are keys.
        keys = attention.key_rows(rows)
        weights_BHNK = keys.put(state.weights_BHNK.transpose(1, 3), weights_BHNK.transpose(1, 3)).transpose(1, 3)
    v_BHKd = attention.keys(buffered(state.v_BNHd)).transpose(1, 2)
    state.logits_BHNK, state.weights_BHNK = logits_BHNK, weights_BHNK
    state.out_BNHd = (weights_BHNK.to(types.sums) @ v_BHKd.to(types.sums)).transpose(1, 2)
    return state.out_BNHd.to(v_BHKd.dtype)


def count_paper(attention: GlobalLayer, ledger: MacLedger, rows: Rows) -> None:
    """Adds the cost of the published update of these rows to the ledger."""
    _count(attention, ledger, rows.counts, attention.key_rows(rows).counts, rows.tokens)


def expect_paper(attention: GlobalLayer, ledger: MacLedger, counts: np.ndarray, tokens: int) -> None:
    """Adds the cost of the published update of `counts` tokens drawn at random, for each entry."""
    _count(attention, ledger, counts, attention.expect_keys(counts), tokens)


def _count(attention: GlobalLayer, ledger: MacLedger, counts: Counts, changed: Counts, tokens: int) -> None:
    keys = attention.key_count(tokens)
    full = (counts >= tokens) * 1.0
    updated = (1 - full) * attention.dim
    ledger.add("qk", full * (tokens * keys * attention.dim) + updated * (counts * keys + tokens * changed))
    ledger.add("av", full * (tokens * keys * attention.dim) + updated * (2 * tokens * changed))
    ledger.add("merge", updated * (counts > 0) * (changed + 2.0 * tokens))
    # As the authors do, for all queries whenever one of them changes.
    attention.count_bias(ledger, (counts > 0) * float(tokens))


def _afresh(attention: GlobalLayer, state: AttentionState, types: PaperTypes) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, weights and outputs, as they are kept, from the buffered q, k, v."""
    q_BNHd = buffered(state.q_BNHd)
    k_BHKd, v_BHKd = (attention.keys(buffered(x)).transpose(1, 2) for x in (state.k_BNHd, state.v_BNHd))
    logits_BHNK = (q_BNHd.transpose(1, 2) * attention.scale) @ k_BHKd.transpose(-2, -1)
    bias = attention.bias(q_BNHd)
    logits_BHNK = (logits_BHNK if bias is None else logits_BHNK + bias).to(types.stored or q_BNHd.dtype)
    weights_BHNK = types.weights(logits_BHNK)
    out_BHNd = weights_BHNK.to(types.sums) @ v_BHKd.to(types.sums)
    return logits_BHNK, weights_BHNK, out_BHNd.transpose(1, 2).contiguous()


def _flush_one(attention: GlobalLayer, state: AttentionState, index_M: Tensor, new: QKV, types: PaperTypes) -> None:
    """A flush of one stream, in place."""
    write(state, PackedRows.from_index(index_M[None], len(index_M)), new)
    buffers = (state.logits_BHNK, state.weights_BHNK, state.out_BNHd)
    for buffer, value in zip(buffers, _afresh(attention, state, types), strict=True):
        buffered(buffer).copy_(value)


def _update_one(attention: GlobalLayer, state: AttentionState, index_M: Tensor, new: QKV, types: PaperTypes) -> None:
    """The published update of one stream, in place."""
    v_BNHd = buffered(state.v_BNHd)
    rows = PackedRows.from_index(index_M[None], v_BNHd.shape[1])
    key_T = changed_keys(attention, rows).flat_P
    v_old_HTd = attention.some_keys(v_BNHd, key_T)[0].transpose(0, 1).to(types.sums)
    write(state, rows, new)
    _update_logits(attention, state, index_M, key_T)

    logits_HNK, weights_HNK = buffered(state.logits_BHNK)[0], buffered(state.weights_BHNK)[0]
    lse_HN = logits_HNK.float().logsumexp(-1)
    now_HNT = torch.exp(logits_HNK[:, :, key_T].float() - lse_HN[..., None]).to(weights_HNK.dtype)
    change_HNT = now_HNT.to(types.sums) - weights_HNK[:, :, key_T].to(types.sums)
    v_change_HTd = attention.some_keys(v_BNHd, key_T)[0].transpose(0, 1).to(types.sums) - v_old_HTd
    out_HNd = buffered(state.out_BNHd)[0].transpose(0, 1)
    out_HNd += now_HNT.to(types.sums) @ v_change_HTd
    out_HNd += change_HNT @ v_old_HTd
    weights_HNK.index_copy_(2, key_T, now_HNT)


def _update_logits(attention: GlobalLayer, state: AttentionState, index_M: Tensor, key_T: Tensor) -> None:
    """Rows of changed queries and columns of changed keys, in place."""
    q_BNHd, k_BNHd = buffered(state.q_BNHd), buffered(state.k_BNHd)
    logits_HNK = buffered(state.logits_BHNK)[0]
    q_HNd = q_BNHd[0].transpose(0, 1) * attention.scale
    rows_HMK = q_HNd[:, index_M] @ attention.keys(k_BNHd)[0].permute(1, 2, 0)
    columns_HNT = q_HNd @ attention.some_keys(k_BNHd, key_T)[0].permute(1, 2, 0)
    bias = attention.bias(q_BNHd)
    if bias is not None:
        rows_HMK += bias[0][:, index_M]
        columns_HNT += bias[0][:, :, key_T]
    logits_HNK.index_copy_(1, index_M, rows_HMK.to(logits_HNK.dtype))
    logits_HNK.index_copy_(2, key_T, columns_HNT.to(logits_HNK.dtype))
