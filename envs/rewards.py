"""Rewards in stated units: how much worse than the dense model, and at what price.

    reward = - damage / scale - weight * cost

`damage` is that of `envs.damage`, by kind of reward: `output` (distances of the outputs, for tasks that offer them),
`fidelity` (distances of the final tokens), `loss` (task loss above the dense model's) or `metric` (the frame's task
metric below the dense model's; not differentiable), or any `Objective`. Distances need no labels.

`cost`, with the share of the dense MACs that the frame took (the ledger's, policy and gates included):

- `budget`: (log share - log budget)^2: zero at the budget.
- `share`: the share itself, a fixed price per MAC whatever the budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from envs.damage import PRESETS, Damage, Objective

Cost = Literal["budget", "share"]

SCALES = {"fidelity": 0.1, "output": 0.025}
"""Damage that is worth one unit of reward, by kind, where it is not 1."""


@dataclass(frozen=True)
class Reward:
    """A reward; see the module's docstring.

    Attributes:
        kind: What counts as damage: `output`, `fidelity`, `loss` or `metric`; or an `Objective` (`of` takes its weights
            too).
        scale: Damage worth one unit of reward; None for 0.1 with kind "fidelity", 0.025 with "output", 1 otherwise.
        cost: What counts as cost: `budget` or `share`.
        weight: Weight of the cost.

    Raises:
        ValueError: If a value does not exist or is out of range.
    """

    kind: str | Objective = "fidelity"
    scale: float | None = None
    cost: Cost = "budget"
    weight: float = 0.2

    def __post_init__(self) -> None:
        if not isinstance(self.kind, Objective) and self.kind not in PRESETS:
            raise ValueError(f"reward must be one of {', '.join(PRESETS)}, got {self.kind!r}")
        if self.cost not in get_args(Cost):
            raise ValueError(f"cost must be one of {', '.join(get_args(Cost))}, got {self.cost!r}")
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise ValueError(f"the scale of a reward must be positive, got {self.scale}")
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"the weight of the cost must not be negative, got {self.weight}")

    @classmethod
    def of(cls, value: str | Mapping[str, Any] | Reward | None, kind: str = "fidelity") -> Reward:
        """From the name of a kind, from a mapping of attributes, or as it is.

        Args:
            value: What is said of the reward; None for nothing.
            kind: Where none is given.

        Raises:
            ValueError: If a key or value does not exist.
        """
        if isinstance(value, Reward):
            return value
        if value is None or isinstance(value, str):
            return cls(kind=value or kind)
        unknown = sorted(set(value) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f"a reward has no {unknown[0]!r}; it has {', '.join(cls.__dataclass_fields__)}")
        given = value.get("kind", kind)
        return cls(**{**value, "kind": Objective(**given) if isinstance(given, Mapping) else given})

    @property
    def objective(self) -> Objective:
        """Weights of the kinds of damage."""
        return self.kind if isinstance(self.kind, Objective) else PRESETS[self.kind]

    @property
    def unit(self) -> float:
        """Damage that is worth one unit of reward."""
        default = 1.0 if isinstance(self.kind, Objective) else SCALES.get(self.kind, 1.0)
        return default if self.scale is None else self.scale

    def of_frame(self, damage: Damage, shares: list[float], budgets: list[float]) -> list[float]:
        """The reward of each stream for one frame.

        Args:
            damage: Of the frame.
            shares: Share of the dense MACs that each stream took.
            budgets: Target shares.
        """
        damages = (self.objective.of_frame(damage) / self.unit).tolist()
        rows = zip(damages, shares, budgets, strict=True)
        return [-lost - self.weight * self._cost(share, budget) for lost, share, budget in rows]

    def damage_by_token(self, damage: Damage) -> Tensor | None:
        """What each token contributes to the damage (B, N), in units of reward; None where that is not known."""
        by_token_BN = self.objective.by_token(damage)
        return None if by_token_BN is None else by_token_BN / self.unit

    def _cost(self, share: float, budget: float) -> float:
        if self.cost == "share":
            return share
        # A frame always costs its gates; the floor only guards against a ledger that counts none.
        return math.log(max(share, 1e-4) / budget) ** 2
