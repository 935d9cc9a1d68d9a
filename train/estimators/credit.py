"""Credit: which rewards of a rollout are set against which of its decisions.

A decision (frame t, gate g, token n) cannot change what came before it, so its return holds the damage from frame t on
and the costs after gate g. Nor does it change much far away from it. With x the damage (or cost) of each token,

    credit_n(x) = sum of x over n's 3x3 neighbourhood and the prefix tokens  +  far * sum of x over all other tokens.

far = 1 is the whole frame's sum: the unbiased estimator, whose variance grows with the number of tokens, because every
token is blamed for the luck of all others. far < 1 trades that for a bias: the share of distant effects, through
attention, that is left out. (In multi-agent terms: rewards of neighbours; Qu, Wierman and Li, 2020.)

Shape suffixes: T frames, G gates, B streams, K rollouts of each, R = B * K, N tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from policies import Layout


def returns(reward_T: Tensor, discount: float) -> Tensor:
    """Discounted sums from each frame on, over the first dimension: G_t = r_t + discount * G_{t+1}."""
    total = torch.zeros_like(reward_T[0])
    sums: list[Tensor] = []
    for reward in reversed(list(reward_T)):
        total = reward + discount * total
        sums.append(total)
    return torch.stack(sums[::-1])


def costs_to_come(cost_TG: Tensor, discount: float) -> Tensor:
    """For each gate, the costs of the frame's later gates and the discounted costs of later frames.

    Args:
        cost_TG: Cost of each frame and gate (T, G, ...).
        discount: Factor per frame by which later costs count less, in [0, 1].

    Returns:
        (T, G, ...).
    """
    of_frame_T = cost_TG.sum(1)
    later_T = returns(of_frame_T, discount) - of_frame_T
    return of_frame_T[:, None] - cost_TG.cumsum(1) + later_T[:, None]


def near_and_far(value_N: Tensor, layout: Layout, far: float) -> Tensor:
    """credit_n of the module's docstring, over the last dimension (..., N)."""
    prefix_P, patches_N = value_N[..., : layout.prefix], value_N[..., layout.prefix :]
    total_1 = value_N.sum(-1, keepdim=True)
    grids = patches_N.reshape(-1, 1, *layout.grid)
    near_N = F.avg_pool2d(grids, 3, stride=1, padding=1, divisor_override=1).reshape(patches_N.shape)
    near_N = torch.cat([total_1.expand_as(prefix_P), near_N + prefix_P.sum(-1, keepdim=True)], -1)
    return near_N + far * (total_1 - near_N)


def leave_one_out(value_R: Tensor, rollouts: int, dim: int = -1) -> Tensor:
    """Each value minus the mean of the other rollouts from the same state; R = B * K, K rollouts side by side.

    The baseline does not depend on the rollout's own draws, so it adds no bias (Kool et al., 2019).
    """
    value_BK = value_R.unflatten(dim, (-1, rollouts))
    along = dim if dim < 0 else dim + 1
    others_BK = (value_BK.sum(along, keepdim=True) - value_BK) / (rollouts - 1)
    return (value_BK - others_BK).flatten(along - 1, along)
