"""Holding the mean spending at the budget while a policy learns, and pricing it.

Minimise E[damage] subject to E[cost / budget] = 1. The mean is over all footage: a busy clip may spend more than its
budget if quiet ones spend less. Two things keep the constraint. Neither is a penalty on single windows, which would
charge busy ones, pay quiet ones, and so teach the policy to spend alike in both:

- **Thresholds are steered**: after each window the table's thresholds move by gain * (realised / asked - 1), the mean
  over streams, each at the knots beside its budget. It is the shift of all scores that calibration makes at the end.
- **The price is the Lagrange multiplier**: with damage + price * cost, a common shift s of all logits is stationary if

      price = - (d damage / d s) / (d cost / d s),

  both running means over windows. So gradients say nothing about how much to spend, only where; and at the optimum a
  MAC is worth the same everywhere. (A parameter that is such a shift, as the last layer's bias, has to be left alone:
  its gradient is nothing but rounding, which Adam would blow up to full steps.)

Shape suffixes: B streams.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eventful.checks.ranges import check_ranges, setting
from policies import TrainablePolicy
from train import distributed


@dataclass
class BudgetOptions:
    """Settings of `BudgetControl`.

    Attributes:
        budget_gain: Step of the thresholds per window that brings the mean spending to the budget, in log threshold per
            relative excess of all streams' windows together.
        price_momentum: Weight of the past windows in the running means from which the price of a MAC follows.

    Raises:
        ValueError: If a value is out of range.
    """

    budget_gain: float = setting(0.4, "[0, 100]")
    price_momentum: float = setting(0.9, "[0, 1)")

    def __post_init__(self) -> None:
        check_ranges(self)


class BudgetControl:
    """Gradients at the running price, and thresholds that follow the budget.

    Args:
        policy: Policy in training.
        options: Gain of the thresholds and momentum of the price; the defaults if None.

    Attributes:
        price: Price of cost / budget, in units of damage; never negative.
    """

    def __init__(self, policy: TrainablePolicy, options: BudgetOptions | None = None) -> None:
        options = options or BudgetOptions()
        self._policy, self._gain, self._momentum = policy, options.budget_gain, options.price_momentum
        self._slopes = torch.zeros(2, dtype=torch.float64)
        self.price = 0.0

    def backward(self, damage: Tensor, cost: Tensor, shift: Tensor) -> None:
        """Accumulates the gradients of damage + price * cost in the policy's parameters.

        Args:
            damage: Mean damage, a scalar with gradients.
            cost: Mean cost / budget, a scalar with gradients.
            shift: Scalar zero that was added to all logits.
        """
        trained = [p for p in self._policy.parameters() if p.requires_grad]
        *of_cost, cost_slope = torch.autograd.grad(cost, [*trained, shift], retain_graph=True, allow_unused=True)
        damage.backward()
        slopes = [torch.zeros_like(shift) if slope is None else slope for slope in (shift.grad, cost_slope)]
        now = distributed.mean(torch.stack(slopes).double().cpu())
        self._slopes = self._momentum * self._slopes + (1 - self._momentum) * now
        of_damage, of_cost_too = self._slopes.tolist()
        self.price = max(-of_damage / max(of_cost_too, 1e-12), 0.0)
        for parameter, gradient in zip(trained, of_cost, strict=True):
            if gradient is not None:
                known = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = known + self.price * gradient

    def steer(self, budget_B: Tensor, relative_B: Tensor) -> None:
        """Moves the thresholds after a window.

        Args:
            budget_B: Target share of the dense MACs of each of this process's streams.
            relative_B: Mean cost / budget of each of these streams.
        """
        both_B2 = distributed.gather(torch.stack([budget_B, relative_B], 1).float().cpu())
        excess_B = (both_B2[:, 1] - 1).clamp(-1, 1)
        self._policy.table.nudge(both_B2[:, 0], self._gain * excess_B / len(excess_B))

    def state_dict(self) -> dict[str, Tensor]:
        """The state for a checkpoint."""
        return {"slopes": self._slopes}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes over the state of a checkpoint."""
        self._slopes = state["slopes"]
