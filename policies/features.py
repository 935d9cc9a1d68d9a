"""What a learned policy sees next to its projections: about ten numbers per token and gate, none of them D wide.

All features are detached: gradients reach a policy through the decisions that it makes, not through what it sees.

Shape suffixes: B streams, N tokens, D channels, F features, H heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from policies.protocol import GateObservation, Layout, PolicyMismatch

SCALARS = (
    "error",
    "error_mean_3x3",
    "error_max_3x3",
    "cosine",
    "age",
    "age_mean_3x3",
    "previous",
    "attention",
    "budget",
)
"""Names of the features, in order: see `scalar_features`."""

SALIENCY = ("saliency", "saliency_max_3x3", "saliency_max_5x5", "saliency_change")
"""Names of the features of what the consumer cared for, in order: see `saliency_features`."""

MOTION = ("motion", "entered")
"""Names of the features of how the picture moves, in order: see `motion_features`."""

WINDOW = 5
"""Side of the neighbourhood whose saliency weighs an error."""

NO_SALIENCY = "which the model does not supply: eventful.wrap(..., saliency=task.saliency)"
"""What is wrong where a policy looks for saliency in vain."""

NO_MOTION = "which the model does not look for: eventful.wrap(..., motion_compensation=True)"
"""What is wrong where a policy looks for the picture's motion in vain."""

_TINY = 1e-6


def log_error(observation: GateObservation) -> Tensor:
    """log ||c - u|| (B, N), float32; errors below 1e-6 count as 1e-6."""
    return observation.error_BN.detach().clamp(min=_TINY).log()


def weighted_log_error(observation: GateObservation, exponent: float, floor: float, window: int = WINDOW) -> Tensor:
    """How much a token has changed, weighed by how much the consumer cared for its surroundings (B, N), float32.

        log ||c - u||  +  exponent * log(s + floor),   s = max of saliency over the window x window neighbourhood

    Args:
        observation: At a gate.
        exponent: How much saliency counts; 0 for the plain `log_error`, which needs none.
        floor: Added to the saliency, so that what nobody looked at can still be seen to change.
        window: Side of the neighbourhood on the grid, odd; prefix tokens have none, and keep their own saliency.

    Raises:
        PolicyMismatch: If the exponent is not 0 and nobody says what the consumer cares for.
        ValueError: If the floor is not positive or the window is not odd.
    """
    if floor <= 0:
        raise ValueError(f"floor must be positive, got {floor}")
    if exponent == 0:
        return log_error(observation)
    saliency_BN = observation.saliency_BN
    if saliency_BN is None:
        raise PolicyMismatch(f"the policy weighs errors by saliency, {NO_SALIENCY}")
    around_BN = largest_around(saliency_BN.detach().float(), observation.layout, window)
    return log_error(observation) + exponent * (around_BN + floor).log()


@torch.no_grad()
def scalar_features(observation: GateObservation, relative_BN: Tensor, budget_B: Tensor) -> Tensor:
    """The features named in `SCALARS`, each of order one.

    Args:
        observation: At a gate.
        relative_BN: log error, normalised with the gate's mean and standard deviation.
        budget_B: Target share of the dense MACs.

    Returns:
        (B, N, F) float32: the relative log error, its 3x3 mean and maximum on the grid, the cosine of c and u,
        log(age) and its 3x3 mean, whether the preceding gate (of this frame) selected the token, log of the attention
        it receives relative to uniform (granularity "gate"; else 0), and log budget.
    """
    layout = observation.layout
    # First, while the tokens that the error was made of are still in the cache.
    cosine_BN = cosine(observation)
    age_BN = observation.age_BN.float().log() / 3
    previous_BN = observation.previous_BN
    # Both means in one call: at so few numbers, calls are what takes time.
    relative_mean_BN, age_mean_BN = mean_around(torch.cat([relative_BN, age_BN]), layout, 3).chunk(2)
    features = [
        relative_BN,
        relative_mean_BN,
        largest_around(relative_BN, layout, 3),
        cosine_BN,
        age_BN,
        age_mean_BN,
        torch.zeros_like(relative_BN) if previous_BN is None else previous_BN.float(),
        attention_received(observation),
        (budget_B.log() / 3)[:, None].expand_as(relative_BN),
    ]
    # Whole features are copied side by side, not number by number: a tenth of the time.
    return torch.stack(features).movedim(0, -1)


@torch.no_grad()
def cosine(observation: GateObservation) -> Tensor:
    """Cosine of c and u (B, N), float32; 0 where one of them is 0.

    From three norms, of which that of the error is known: 2 c.u = |c|^2 + |u|^2 - |c - u|^2. A pass over D channels is
    what a feature costs.
    """
    c_BN, u_BN = (
        torch.linalg.vector_norm(x_BND, dim=-1, dtype=torch.promote_types(x_BND.dtype, torch.float32)).float()
        for x_BND in (observation.input_BND, observation.reference_BND)
    )
    # Squares by themselves: a fused product would round otherwise, and leave more than nothing where a token is 0.
    twice_BN = c_BN.square().add_(u_BN.square()).sub_(observation.error_BN.detach().square())
    return twice_BN.div_((c_BN * u_BN).mul_(2).clamp_(min=_TINY**2)).clamp_(-1, 1)


@torch.no_grad()
def saliency_features(observation: GateObservation) -> Tensor:
    """The features named in `SALIENCY`, each of order one.

    Returns:
        (B, N, F) float32: x = (log(s + 0.02) + 2) / 2 of the saliency s, its maxima over the 3x3 and the 5x5
        neighbourhood, and its change since the frame before. All 0 where nobody says what the consumer cares for.
    """
    now_BN, before_BN = observation.saliency_BN, observation.saliency_before_BN
    if now_BN is None:
        return observation.error_BN.new_zeros(*observation.error_BN.shape, len(SALIENCY))
    x_BN, x_before_BN = (_log_saliency(s_BN) for s_BN in (now_BN, now_BN if before_BN is None else before_BN))
    around = [largest_around(x_BN, observation.layout, window) for window in (3, 5)]
    return torch.stack([x_BN, *around, x_BN - x_before_BN], dim=-1)


def _log_saliency(saliency_BN: Tensor) -> Tensor:
    return ((saliency_BN.float() + 0.02).log() + 2) / 2


@torch.no_grad()
def motion_features(observation: GateObservation) -> Tensor:
    """The features named in `MOTION`.

    Returns:
        (B, N, F) float32: log(1 + m) of the length m in tokens of the picture's motion since the last frame, the same
        for all tokens, and whether what is at a token now came in over the border.

    Raises:
        PolicyMismatch: If the model does not look for motion.
    """
    motion_B2, layout = observation.motion_B2, observation.layout
    if motion_B2 is None:
        raise PolicyMismatch(f"this policy looks at how the picture moves, {NO_MOTION}")
    entered = []
    for axis, size in enumerate(layout.grid):
        source = torch.arange(size, device=motion_B2.device) - motion_B2[:, axis, None]
        entered.append((source < -0.5) | (source > size - 0.5))
    patches_BN = (entered[0][:, :, None] | entered[1][:, None]).flatten(1).float()
    entered_BN = F.pad(patches_BN, (layout.prefix, 0))
    length_BN = torch.linalg.vector_norm(motion_B2, dim=1).log1p()[:, None].expand_as(entered_BN)
    return torch.stack([length_BN, entered_BN], dim=-1)


def mean_around(x: Tensor, layout: Layout, window: int) -> Tensor:
    """Mean over the window x window neighbourhood on the grid; prefix tokens keep their own value.

    Args:
        x: (B, N), or (B, N, F) with any number of features.
        layout: Layout of the model.
        window: Side of the neighbourhood, odd.
    """
    return _on_the_grid(x, layout, partial(F.avg_pool2d, count_include_pad=False), window)


def largest_around(x: Tensor, layout: Layout, window: int) -> Tensor:
    """Maximum over the neighbourhood; otherwise as `mean_around`."""
    return _on_the_grid(x, layout, F.max_pool2d, window)


def _on_the_grid(x: Tensor, layout: Layout, pool: Callable[..., Tensor], window: int) -> Tensor:
    """Pools the patch tokens of x, which is (B, N) or (B, N, F), as pictures of F channels."""
    if window < 1 or window % 2 == 0:
        raise ValueError(f"a window must be odd, so that it has a middle, got {window}")
    prefix, patches = x[:, : layout.prefix], x[:, layout.prefix :].unflatten(1, layout.grid)
    # One feature as a picture of the usual order: taken for one with channels last, it takes pools five times as long.
    grid_BFhw = patches[:, None] if x.ndim == 2 else patches.permute(0, 3, 1, 2)
    pooled_BFhw = pool(grid_BFhw, window, stride=1, padding=window // 2)
    pooled = pooled_BFhw[:, 0] if x.ndim == 2 else pooled_BFhw.permute(0, 2, 3, 1)
    return torch.cat([prefix, pooled.flatten(1, 2)], 1)


def attention_received(observation: GateObservation) -> Tensor:
    """log(N * attention) that the mean query of each head pays to each token, averaged over heads (B, N).

    A stand-in for the column sums of the attention matrix, at the price of one row. Gates that see the same keys and
    queries share it.
    """
    q_BNHd, k_BNHd = observation.query_BNHd, observation.key_BNHd
    if q_BNHd is None or k_BNHd is None:
        return torch.zeros_like(observation.error_BN)
    known = observation.shared.get("attention_received")
    if known is None:
        known = observation.shared["attention_received"] = _received(q_BNHd.detach(), k_BNHd.detach())
    return known


def _received(q_BNHd: Tensor, k_BNHd: Tensor) -> Tensor:
    q_BHd = q_BNHd.float().mean(1)
    logits_BHN = torch.einsum("bhd,bnhd->bhn", q_BHd, k_BNHd.float()) * q_BHd.shape[-1] ** -0.5
    received_BN = logits_BHN.softmax(-1).mean(1)
    return (received_BN * received_BN.shape[1]).clamp(min=_TINY).log()


def feature_macs(layout: Layout, saliency: bool = False) -> float:
    """MACs of the features per gate and stream: cosine (as three dot products; two are run), 3x3 sums, attention row.

    The attention row is counted at every gate, though the gates of a block share it.

    Args:
        layout: Layout of the model.
        saliency: Whether `saliency_features` are among them: maxima over 3x3 and 5x5, one difference.
    """
    per_token = 3 * layout.dim + 2 * 9 + (2 * layout.dim if layout.granularity == "gate" else 0)
    return float(layout.tokens * (per_token + (9 + 25 + 1 if saliency else 0)))


def weighted_macs(layout: Layout, exponent: float) -> float:
    """MACs of `weighted_log_error` per gate and stream, beyond the error: a maximum over the window, a multiple."""
    return float(layout.tokens * (WINDOW**2 + 1)) if exponent else 0.0
