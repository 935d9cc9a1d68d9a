"""Decisions that can be trained: hard masks with gradients, and masks with log-probabilities.

- Straight-through binary concrete (Maddison et al., 2017; Jang et al., 2017): with logistic noise l = log u - log(1-u),
  m = 1[s + l > 0] in the forward pass, d m / d s = d sigmoid((s + l) / t) / d s in the backward pass.
- Bernoulli masks for the score-function estimator (Williams, 1992), probabilities bounded to [p_min, 1 - p_min].

Shape suffixes: B streams, N tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor


def concrete_mask(
    logit_BN: Tensor, temperature: float = 2 / 3, noise: bool = True, generator: torch.Generator | None = None
) -> Tensor:
    """A hard 0/1 mask (float) whose gradient is that of the relaxed one.

    Args:
        logit_BN: Log-odds of selection (B, N).
        temperature: Temperature of the relaxation, above 0.
        noise: Whether logistic noise is added (training); without, the mask is 1[logit > 0].
        generator: Random generator of the noise; torch's own if None.

    Raises:
        ValueError: If the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    noisy_BN = logit_BN + logistic_like(logit_BN, generator) if noise else logit_BN
    soft_BN = torch.sigmoid(noisy_BN / temperature)
    hard_BN = (noisy_BN > 0).to(soft_BN.dtype)
    # The bracket is zero in value, and exactly so: hard + (soft - soft) would round.
    return hard_BN + (soft_BN - soft_BN.detach())


def logistic_like(tensor: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard logistic noise in the shape of a tensor."""
    u = torch.rand(tensor.shape, generator=generator, dtype=torch.float32).to(tensor.device)
    u = u.clamp(1e-6, 1 - 1e-6)
    return (u.log() - torch.log1p(-u)).to(tensor.dtype)


def bounded_probability(logit_BN: Tensor, p_min: float = 0.01) -> Tensor:
    """sigmoid(logit) squeezed into [p_min, 1 - p_min], so that no decision ever stops being explored."""
    return p_min + (1 - 2 * p_min) * torch.sigmoid(logit_BN)


def sample_mask(probability_BN: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Independent Bernoulli draws, bool."""
    u_BN = torch.rand(probability_BN.shape, generator=generator).to(probability_BN.device)
    return u_BN < probability_BN


def log_probability(probability_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """log P(mask) of each token's independent decision (B, N)."""
    return torch.where(mask_BN, probability_BN.log(), torch.log1p(-probability_BN))


def bernoulli_entropy(probability_BN: Tensor) -> Tensor:
    """Entropy of each token's decision in nats (B, N)."""
    p = probability_BN
    return -(p * p.log() + (1 - p) * torch.log1p(-p))
