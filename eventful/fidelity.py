"""How far an eventful model's features are from the dense model's on the same frame: 1 - cosine of each final token.

Shape suffixes: B streams, N tokens, D channels, Y rows, X columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORST = 20
"""How many of the worst tokens are averaged."""


def as_tokens(features: Tensor) -> Tensor:
    """What `forward_features` returns as tokens (B, N, D): maps (B, D, Y, X) row by row, tokens as they are."""
    return features.flatten(2).transpose(1, 2) if features.dim() == 4 else features


def distances(features: Tensor, dense: Tensor) -> Tensor:
    """1 - cosine of each final token (B, N), float32; of what both models' `forward_features` returned."""
    return 1 - torch.cosine_similarity(as_tokens(features).float(), as_tokens(dense).float(), dim=-1)


def mean_and_worst(distance_BN: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over all tokens, and the mean over the 20 largest, both (B,)."""
    return distance_BN.mean(1), distance_BN.topk(min(WORST, distance_BN.shape[1]), dim=1).values.mean(1)


def token_distance(features: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
    """`mean_and_worst` of the `distances` of two models' features."""
    return mean_and_worst(distances(features, dense))
