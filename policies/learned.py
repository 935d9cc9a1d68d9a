"""The learned policy: a small scorer shared by all gates, a residual on the calibrated threshold.

    score = w_g (log ||e|| - log h_g(budget)) + MLP(features, gate)

The last layer of the MLP starts at zero and w_g at one, so that the untrained policy *is* the calibrated threshold
(`select="threshold"`: score > 0) or top-r (`select="top"`: the r highest scores). w_g stays positive: errors of
skipped tokens add up, and every token is noticed eventually.

Shape suffixes: B streams, N tokens, D channels, F features, G gates, K budgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from policies.features import SCALARS, feature_macs, log_error, scalar_features
from policies.protocol import GateObservation, Granularity, Layout, Policy, Selection, budget_per_stream
from policies.table import ThresholdTable

Select = Literal["threshold", "top"]
DEFAULT_BUDGETS = (0.03, 0.05, 0.1, 0.2, 0.35, 0.5, 0.8)


class PolicyMismatch(ValueError):  # noqa: N818 (reads as what it is)
    """A checkpoint is used with a model that it was not made for."""


class LearnedPolicy(
    nn.Module,
    Policy,
    PyTorchModelHubMixin,
    library_name="eventful-policies",
    tags=["eventful-transformers", "token-selection"],
    license="apache-2.0",
):
    """Scores tokens by a shared two-layer MLP; one checkpoint serves all budgets.

    Args:
        gates: G, decisions per frame of the model it is for.
        dim: D, channels of its tokens.
        granularity: `gate` or `frame`, as the model is run.
        hidden: Width of the MLP.
        projections: Learned projections of each token's last output (granularity "frame" only), so that the
            policy can know what the token is.
        budgets: K budgets of the threshold table.
        select: `threshold`, the number of tokens follows the content; `top`, it follows the budget alone.
        budget: Target share of the dense MACs; may be set before every frame, also per stream (B,).
        feedback: With `select="threshold"`, how far the threshold moves per frame to bring the realised share to the
            budget on this very footage (0: calibration alone; 0.05: within some 20 frames).
        provenance: What the checkpoint was trained with (task, model, options), for whoever loads it.

    Raises:
        ValueError: If an argument is out of range.
    """

    log_error_mean_G: Tensor
    log_error_std_G: Tensor

    def __init__(
        self,
        gates: int,
        dim: int,
        granularity: Granularity = "frame",
        hidden: int = 32,
        projections: int = 8,
        budgets: Sequence[float] = DEFAULT_BUDGETS,
        select: Select = "threshold",
        budget: float = 0.1,
        feedback: float = 0.0,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if gates < 1 or dim < 1 or hidden < 1 or projections < 0:
            raise ValueError(f"gates, dim and hidden must be positive: {gates=} {dim=} {hidden=} {projections=}")
        if select not in get_args(Select):
            raise ValueError(f"select must be one of {', '.join(get_args(Select))}, got {select!r}")
        self.gates, self.dim, self.granularity = gates, dim, granularity
        self.select_by, self.feedback = select, feedback
        self.budget = budget
        self.provenance = dict(provenance or {})
        self.table = ThresholdTable(budgets, gates)
        self.register_buffer("log_error_mean_G", torch.zeros(gates))
        self.register_buffer("log_error_std_G", torch.ones(gates))
        self.projection = nn.Linear(dim, projections) if granularity == "frame" and projections else None
        width = len(SCALARS) + (projections if self.projection is not None else 0)
        self.hidden = nn.Linear(width, hidden)
        self.gate_bias = nn.Embedding(gates, hidden)
        self.activation = nn.GELU()
        self.out = nn.Linear(hidden, 1)
        self.log_weight_G = nn.Parameter(torch.zeros(gates))
        nn.init.normal_(self.gate_bias.weight, std=0.1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def score(self, observation: GateObservation, budget_B: Tensor | None = None) -> Tensor:
        """Scores (B, N), in units of log error; positive means update. Differentiable in the parameters.

        Raises:
            PolicyMismatch: If the policy was made for another model.
            ValueError: If a budget is out of range.
        """
        self._check(observation.layout)
        gate = observation.gate
        if budget_B is None:
            budget_B = budget_per_stream(1.0 if self.budget is None else self.budget, observation)
        log_error_BN = log_error(observation)
        relative_BN = (log_error_BN - self.log_error_mean_G[gate]) / self.log_error_std_G[gate]
        features_BNF = scalar_features(observation, relative_BN, budget_B)
        if self.projection is not None:
            features_BNF = torch.cat([features_BNF, self._projected(observation)], -1)
        dtype = self.hidden.weight.dtype
        hidden = self.hidden(features_BNF.to(dtype)) + self.gate_bias.weight[gate]
        residual_BN = self.out(self.activation(hidden)).squeeze(-1).float()
        above_BN = log_error_BN - self.table(gate, budget_B)[:, None]
        return self.log_weight_G[gate].float().exp() * above_BN + residual_BN

    def select(self, observation: GateObservation) -> Selection:
        """See `Policy.select`."""
        with torch.no_grad():
            budget_B = budget_per_stream(1.0 if self.budget is None else self.budget, observation)
            score_BN = self.score(observation, budget_B)
            if self.select_by == "top":
                return self._top(observation, score_BN, budget_B)
            if self.feedback:
                score_BN = score_BN - self._offset(observation, budget_B)[:, None]
            return Selection.where(score_BN > 0, observation)

    def macs(self, layout: Layout) -> float:
        """See `Policy.macs`."""
        dense = self.hidden.in_features * self.hidden.out_features + self.hidden.out_features
        projected = 0 if self.projection is None else self.projection.in_features * self.projection.out_features
        return feature_macs(layout) + float(layout.tokens * (dense + projected))

    def _top(self, observation: GateObservation, score_BN: Tensor, budget_B: Tensor) -> Selection:
        layout = observation.layout
        if isinstance(self.budget, Tensor) and self.budget.numel() > 1:
            return Selection.top_counts(score_BN, layout.counts(budget_B), layout.prefix)
        return Selection.top(score_BN, layout.count(float(budget_B[0])), layout.prefix)

    def _offset(self, observation: GateObservation, budget_B: Tensor) -> Tensor:
        """Integral control of the threshold by the realised share (B,)."""
        memory = observation.memory
        if "threshold_offset" not in memory:
            memory["threshold_offset"] = torch.zeros_like(budget_B)
        elif observation.gate == 0 and observation.spent_B is not None:
            spent_B = observation.spent_B.to(budget_B)
            # The relative, not the logarithmic, excess: its mean is zero where the mean share is the budget.
            excess_B = (spent_B / budget_B - 1).clamp(-2, 2)
            memory["threshold_offset"] = memory["threshold_offset"] + self.feedback * excess_B
        return memory["threshold_offset"]

    def _projected(self, observation: GateObservation) -> Tensor:
        projection, output_BND = self.projection, observation.output_BND
        if projection is None or output_BND is None:
            raise PolicyMismatch("this policy looks at the tokens' last outputs, which the model does not supply")
        # The next frame edits the buffer in place; a backward pass that comes later needs it as it is.
        output_BND = output_BND.detach().clone() if torch.is_grad_enabled() else output_BND
        return projection(output_BND.to(projection.weight.dtype))

    def _check(self, layout: Layout) -> None:
        mine = (self.gates, self.dim, self.granularity)
        theirs = (layout.gates, layout.dim, layout.granularity)
        if mine != theirs:
            raise PolicyMismatch(
                f"the policy is for {mine[0]} gates of width {mine[1]} (granularity {mine[2]!r}), "
                f"the model has {theirs[0]} gates of width {theirs[1]} (granularity {theirs[2]!r})"
            )
