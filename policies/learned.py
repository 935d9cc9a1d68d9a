"""The learned policy: a small scorer shared by all gates, a residual on the calibrated threshold.

    residual = MLP(features, gate)

or, with `neighbours`, with one layer more, which also sees the mean of the first layer over the token's 5x5
neighbourhood: what a token is worth depends on what happens around it. The last layer of the MLP starts at zero, so
that the untrained policy is the heuristic (`policies.trainable`).

Shape suffixes: B streams, N tokens, D channels, F features, G gates, K budgets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policies.features import (
    MOTION,
    NO_SALIENCY,
    SALIENCY,
    SCALARS,
    WINDOW,
    feature_macs,
    mean_around,
    motion_features,
    saliency_features,
    scalar_features,
)
from policies.protocol import Budget, GateObservation, Granularity, Layout, PolicyMismatch
from policies.provenance import Provenance
from policies.trainable import DEFAULT_BUDGETS, Select, TrainablePolicy


class LearnedPolicy(TrainablePolicy):
    """Scores tokens by a two-layer MLP on a few numbers per token.

    Args:
        gates: G, decisions per frame of the model it is for.
        dim: D, channels of the model's tokens.
        granularity: `gate` or `frame`, as the model is run.
        hidden: Width of the MLP.
        projections: Learned projections of each token's last output (granularity "frame" only), so that the
            policy can know what the token is for the network.
        input_projections: Learned projections of each token's current input (granularity "frame" only), so that it can
            know what there is to be seen now.
        neighbours: Whether a further layer sees the first one's mean over the token's 5x5 neighbourhood.
        motion: Whether the MLP sees how the picture as a whole moves; the model must compensate for it.
        budgets: K budgets of the threshold table.
        select: `threshold` or `top`.
        budget: Target share of the dense MACs.
        feedback: Gain of the threshold's feedback control.
        provenance: What the checkpoint was trained with.
        saliency_exponent: How much an error counts for more where the consumer looked.
        saliency_floor: Saliency of what nobody looked at.
        saliency: Whether the MLP sees what the consumer cared for in the last outputs, around the token, and how that
            has changed; the model must supply it.
        max_age: Frames after which a token is updated in any case; None for no bound.

    Raises:
        ValueError: If an argument is out of range.
    """

    fixed = (*TrainablePolicy.fixed, "saliency", "motion")

    def __init__(
        self,
        gates: int,
        dim: int,
        granularity: Granularity = "frame",
        hidden: int = 32,
        projections: int = 8,
        budgets: Sequence[float] = DEFAULT_BUDGETS,
        select: Select = "threshold",
        budget: Budget = 0.1,
        feedback: float = 0.0,
        provenance: Provenance | Mapping[str, Any] | None = None,
        saliency_exponent: float = 0.0,
        saliency_floor: float = 0.02,
        saliency: bool = False,
        max_age: int | None = None,
        input_projections: int = 0,
        neighbours: bool = False,
        motion: bool = False,
    ) -> None:
        super().__init__(
            gates,
            dim,
            granularity,
            budgets,
            select,
            budget,
            feedback,
            provenance,
            saliency_exponent,
            saliency_floor,
            max_age,
        )
        if hidden < 1 or projections < 0 or input_projections < 0:
            raise ValueError(
                f"hidden must be positive, projections not negative: {hidden=} {projections=} {input_projections=}"
            )
        projections, input_projections = (n * (granularity == "frame") for n in (projections, input_projections))
        self.projection = nn.Linear(dim, projections) if projections else None
        self.input_projection = nn.Linear(dim, input_projections) if input_projections else None
        self.saliency, self.motion = saliency, motion
        width = len(SCALARS) + len(SALIENCY) * saliency + len(MOTION) * motion + projections + input_projections
        self.hidden = nn.Linear(width, hidden)
        self.gate_bias = nn.Embedding(gates, hidden)
        self.mixed = nn.Linear(2 * hidden, hidden) if neighbours else None
        self.activation = nn.GELU()
        self.out = nn.Linear(hidden, 1)
        nn.init.normal_(self.gate_bias.weight, std=0.1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        # A common shift of all scores, which is for the thresholds to make.
        self.out.bias.requires_grad_(False)

    def residual(self, observation: GateObservation, relative_BN: Tensor, budget_B: Tensor) -> Tensor:
        """See `TrainablePolicy.residual`."""
        features = [scalar_features(observation, relative_BN, budget_B)]
        if self.saliency:
            if observation.saliency_BN is None:
                raise PolicyMismatch(f"this policy looks at saliency, {NO_SALIENCY}")
            features.append(saliency_features(observation))
        if self.motion:
            features.append(motion_features(observation))
        if self.projection is not None:
            features.append(self._projected(self.projection, observation.output_BND))
        if self.input_projection is not None:
            features.append(self._projected(self.input_projection, observation.input_BND))
        features_BNF = (torch.cat(features, -1) if len(features) > 1 else features[0]).to(self.hidden.weight.dtype)
        # The gate's bias goes into the layer's: no sum over all tokens of its own.
        bias_F = self.hidden.bias + self.gate_bias.weight[observation.gate]
        hidden_BNF = self.activation(F.linear(features_BNF, self.hidden.weight, bias_F))
        if self.mixed is not None:
            around_BNF = mean_around(hidden_BNF, observation.layout, WINDOW)
            hidden_BNF = self.activation(self.mixed(torch.cat([hidden_BNF, around_BNF], -1)))
        return self.out(hidden_BNF).squeeze(-1)

    def residual_macs(self, layout: Layout) -> float:
        """See `TrainablePolicy.residual_macs`."""
        width = self.hidden.out_features
        dense = self.hidden.in_features * width + width
        if self.mixed is not None:
            dense += self.mixed.in_features * width + WINDOW**2 * width
        projections = [part for part in (self.projection, self.input_projection) if part is not None]
        projected = sum(part.in_features * part.out_features for part in projections)
        return feature_macs(layout, self.saliency) + float(layout.tokens * (dense + projected))

    def _projected(self, projection: nn.Linear, x_BND: Tensor | None) -> Tensor:
        if x_BND is None:
            raise PolicyMismatch("this policy looks at the tokens' last outputs, which the model does not supply")
        # The next frame edits the buffers in place; a backward pass that comes later needs them as they are.
        x_BND = x_BND.detach().clone() if torch.is_grad_enabled() else x_BND
        return projection(x_BND.to(projection.weight.dtype))
