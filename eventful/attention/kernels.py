"""Attention over some of the keys, with what is needed to merge the parts: `(output, log-sum-exp)`.

For logits s_ij = scale * q_i . k_j + bias_ij over a set of keys: out_i = sum_j softmax(s_i)_j v_j and
lse_i = log sum_j exp(s_ij). Fused kernels return both; a plain-torch version serves where there is none.

Shape suffixes: B streams, R rows (queries), K keys, H heads, d channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry, register_flop_formula, sdpa_flop_count

_aten = torch.ops.aten


def partial_attention(
    q_BRHd: Tensor, k_BKHd: Tensor, v_BKHd: Tensor, bias_BHRK: Tensor | None = None, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Softmax attention and its log-sum-exp, without gradients.

    Args:
        q_BRHd: Queries.
        k_BKHd: Keys; K must be at least 1.
        v_BKHd: Values, with as many channels as the queries.
        bias_BHRK: Added to the scaled logits (broadcastable), None for none.
        scale: Factor of the products; d ** -0.5 if None.

    Returns:
        Outputs (B, R, H, d) in the dtype of the queries, and the log-sum-exp (B, R, H) in float32.
    """
    # Under autocast, the types of new and of buffered rows may differ.
    q, k, v = (x.transpose(1, 2).to(q_BRHd.dtype) for x in (q_BRHd, k_BKHd, v_BKHd))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out, lse = _kernel(q, k, v, bias_BHRK, scale)
    return out.transpose(1, 2), lse.transpose(1, 2)


def _kernel(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    if q.device.type == "cpu" and q.dtype in (torch.float32, torch.bfloat16, torch.float16):
        if bias is not None:
            bias = bias.to(q.dtype).expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        return _aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=bias, scale=scale)
    if q.device.type == "cuda" and bias is None:
        if q.dtype in (torch.float16, torch.bfloat16) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 256:
            out, lse, *_ = _aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, False, scale=scale)
            return out, lse
        out, lse, *_ = _aten._scaled_dot_product_efficient_attention(q, k, v, None, True, scale=scale)
        # The kernel pads the rows of the log-sum-exp to a multiple of its tile.
        return out, lse[:, :, : q.shape[2]]
    return plain_attention(q, k, v, bias, scale)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """The definition, in plain torch: for devices without a kernel, and for tests to compare with.

    Args:
        q: Queries (B, H, R, d).
        k: Keys (B, H, K, d).
        v: Values (B, H, K, d).
        bias: Added to the scaled logits, or None.
        scale: Factor of the products.

    Returns:
        Outputs (B, H, R, d) in the dtype of q, log-sum-exp (B, H, R) in float32 (float64 for float64 input).
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    logits = (q.to(wide) @ k.to(wide).transpose(-2, -1)) * scale
    if bias is not None:
        logits = logits + bias
    lse = logits.logsumexp(-1)
    out = torch.exp(logits - lse[..., None]) @ v.to(wide)
    return out.to(q.dtype), lse


def _count_flops(q_shape: Any, k_shape: Any, v_shape: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Two operations per multiply-accumulate, for torch's own counters."""
    return sdpa_flop_count(q_shape, k_shape, v_shape)


# Some versions of torch count the fused attention of GPUs alone.
if _aten._scaled_dot_product_flash_attention_for_cpu not in flop_registry:
    register_flop_formula(_aten._scaled_dot_product_flash_attention_for_cpu)(_count_flops)
