"""How far an eventful model's final tokens are from the dense model's on the same frame: 1 - cosine per token.

Shape suffixes: B streams, N tokens, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORST = 20
"""How many of the worst tokens are averaged, unless said otherwise."""


def distances(features_BND: Tensor, dense_BND: Tensor) -> Tensor:
    """1 - cosine of each final token (B, N), float32."""
    return 1 - torch.cosine_similarity(features_BND.float(), dense_BND.float(), dim=-1)


def token_distance(features_BND: Tensor, dense_BND: Tensor, worst: int = WORST) -> tuple[Tensor, Tensor]:
    """Distance of eventful features to the dense model's on the same frame: 1 - cosine per token.

    Args:
        features_BND: Final tokens of the eventful model.
        dense_BND: Final tokens of the dense model.
        worst: How many of the worst tokens the second figure averages.

    Returns:
        The mean over all tokens and the mean over the `worst` largest, both of shape (B,).
    """
    distance_BN = distances(features_BND, dense_BND)
    return distance_BN.mean(1), distance_BN.topk(min(worst, distance_BN.shape[1]), dim=1).values.mean(1)
