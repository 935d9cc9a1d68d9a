"""Rewards in stated units: how much worse than the dense model, and at what price.

    reward = - damage / scale - weight * cost

`damage` is zero for the dense model, by kind of reward:

- `fidelity`: mean token distance + worst_weight * mean of the 20 worst (1 - cosine to the dense model's final tokens
  on the same frame: 0 to 2). Needs no labels.
- `loss`: task loss - dense model's task loss on the same frame, in units of the task's loss.
- `metric`: dense model's task metric of the single frame - the eventful model's, in units of the metric (0 to 1).
  Not differentiable. Zero on frames that have no such metric.

`cost`, with the share of the dense MACs that the frame took (the ledger's, policy and gates included):

- `budget`: (log share - log budget)^2: zero at the budget.
- `share`: the share itself, a fixed price per MAC whatever the budget.

Shape suffixes: B streams, N tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from eventful.fidelity import WORST

Kind = Literal["fidelity", "loss", "metric"]
Cost = Literal["budget", "share"]

SCALES: dict[Kind, float] = {"fidelity": 0.1, "loss": 1.0, "metric": 1.0}
"""Damage that is worth one unit of reward, unless said otherwise."""


@dataclass(frozen=True)
class Damage:
    """How much worse than dense one frame turned out, in each of the units that are known.

    Attributes:
        mean: Mean token distance.
        worst: Mean of the worst token distances.
        loss: Excess of the task loss, None without labels.
        metric: Shortfall of the frame's task metric, None where there is none.
    """

    mean: float
    worst: float
    loss: float | None = None
    metric: float | None = None


@dataclass(frozen=True)
class Reward:
    """A reward; see the module's docstring.

    Attributes:
        kind: What counts as damage.
        scale: Damage worth one unit of reward; None for the default of the kind in `SCALES`.
        worst_weight: Weight of the worst tokens (kind "fidelity").
        cost: What counts as cost.
        weight: Of the cost.

    Raises:
        ValueError: If a value does not exist or is out of range.
    """

    kind: Kind = "fidelity"
    scale: float | None = None
    worst_weight: float = 0.1
    cost: Cost = "budget"
    weight: float = 0.2

    def __post_init__(self) -> None:
        for name, value, kind in (("reward", self.kind, Kind), ("cost", self.cost, Cost)):
            if value not in get_args(kind):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {value!r}")
        if self.scale is not None and self.scale <= 0:
            raise ValueError(f"the scale of a reward must be positive, got {self.scale}")
        if self.weight < 0 or self.worst_weight < 0:
            raise ValueError(f"weights must not be negative: weight={self.weight} worst_weight={self.worst_weight}")

    @classmethod
    def of(cls, value: str | Mapping[str, Any] | Reward) -> Reward:
        """From the name of a kind, from a mapping of attributes, or as it is.

        Raises:
            ValueError: If a key or value does not exist.
        """
        if isinstance(value, Reward):
            return value
        if isinstance(value, str):
            return cls(kind=value)  # type: ignore[arg-type]
        unknown = sorted(set(value) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f"a reward has no {unknown[0]!r}; it has {', '.join(cls.__dataclass_fields__)}")
        return cls(**value)

    @property
    def needs_labels(self) -> bool:
        """Whether it can be computed only where there are labels."""
        return self.kind != "fidelity"

    def __call__(self, damage: Damage, share: float, budget: float) -> float:
        """The reward of one frame of one stream.

        Args:
            damage: Of the frame.
            share: Share of the dense MACs that the frame took.
            budget: Target share.
        """
        return -self._damage(damage) / self.unit - self.weight * self._cost(share, budget)

    @property
    def unit(self) -> float:
        """Damage that is worth one unit of reward."""
        return SCALES[self.kind] if self.scale is None else self.scale

    def by_token(self, distance_BN: Tensor, excess_BN: Tensor | None) -> Tensor | None:
        """Damage at each token, in units of reward; each row sums to what the frame's reward loses by damage.

        Args:
            distance_BN: Token distances to the dense model.
            excess_BN: Excess of each token's part of the task loss, None where the task does not tell it.

        Returns:
            (B, N), or None where the damage is one of the whole frame.
        """
        if self.kind == "loss":
            return None if excess_BN is None else excess_BN / self.unit
        if self.kind == "metric":
            return None
        worst_BW = distance_BN.topk(min(WORST, distance_BN.shape[1]), dim=1).indices
        weight_BN = torch.full_like(distance_BN, 1 / distance_BN.shape[1])
        extra_BW = torch.full_like(distance_BN[:, :WORST], self.worst_weight / worst_BW.shape[1])
        weight_BN = weight_BN.scatter_add(1, worst_BW, extra_BW)
        return distance_BN * weight_BN / self.unit

    def _damage(self, damage: Damage) -> float:
        if self.kind == "fidelity":
            return damage.mean + self.worst_weight * damage.worst
        value = damage.loss if self.kind == "loss" else damage.metric
        return 0.0 if value is None else value

    def _cost(self, share: float, budget: float) -> float:
        if self.cost == "share":
            return share
        # A frame always costs its gates; the floor only guards against a ledger that counts none.
        return math.log(max(share, 1e-4) / budget) ** 2
