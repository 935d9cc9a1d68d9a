"""Replacing some keys' share in attention outputs that are already there.

For row i keep the output o_i and the log-sum-exp L_i. With (o', l') the row's attention over the *old* keys and values
of the changed set, and (o'', l'') over the *new* ones, a = exp(l' - L_i) and b = exp(l'' - L_i):

    o_i <- (o_i - a o' + b o'') / (1 - a + b),    L_i <- L_i + log(1 - a + b).

The subtraction cancels where a row had nearly all its mass on the changed keys (1 - a small), and exp overflows where
the new keys outweigh all others: such rows are unsafe, and must be computed afresh.

Shape suffixes: B streams, N tokens, P merged rows of all streams, H heads, d channels of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eventful.rows import PackedRows

REFRESH_BELOW = 0.2
"""Rows that keep less than this share of their mass are computed afresh (measured in docs/lab-notes.md)."""

MERGE_LIMIT = 1e6
"""Rows whose mass grows by more than this factor are computed afresh: exp() would overflow next."""


def merge(out_BNHd: Tensor, lse_BNH: Tensor, rows: PackedRows, part_2PHd: Tensor, lse_2PH: Tensor) -> Tensor:
    """Updates outputs and log-sum-exps of some rows, in place.

    Args:
        out_BNHd: Attention outputs, float32.
        lse_BNH: Log-sum-exps, float32.
        rows: The rows to update.
        part_2PHd: Their attention over the old (first) and the new (second) changed keys; overwritten.
        lse_2PH: The log-sum-exps of these.

    Returns:
        Which of the rows are unsafe (P,): what was written to them is not to be used.
    """
    loss_PH, gain_PH = torch.exp(lse_2PH - rows.take(lse_BNH)).unbind(0)
    mass_PH = 1 - loss_PH + gain_PH
    scale_PH = mass_PH.reciprocal()
    change_PHd = part_2PHd[0].float().mul_((-loss_PH * scale_PH)[..., None])
    change_PHd.addcmul_(part_2PHd[1].float(), (gain_PH * scale_PH)[..., None])
    # Scaling all rows, by 1 where nothing changes, is faster than gathering and scattering the others.
    out_BNHd.mul_(rows.put(torch.ones_like(lse_BNH), scale_PH)[..., None])
    out_BNHd.view(-1, *out_BNHd.shape[2:]).index_add_(0, rows.flat_P, change_PHd)
    lse_BNH.view(-1, lse_BNH.shape[2]).index_add_(0, rows.flat_P, mass_PH.log())
    return ((1 - loss_PH < REFRESH_BELOW) | ~(gain_PH < MERGE_LIMIT)).any(-1)
