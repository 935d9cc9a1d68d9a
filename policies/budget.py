"""Budgets: which share of the dense MACs a policy aims at, one for all streams or one for each.

Shape suffixes: B streams.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from policies.protocol import Budget, GateObservation, Policy


class BudgetedPolicy(Policy):
    """A policy that can be told what to spend.

    Args:
        budget: Target share of the dense MACs in (0, 1], one for all streams or one for each (B,).
    """

    _budget: Budget

    @property
    def budget(self) -> Budget:
        """Target share of the dense MACs in (0, 1], or one for each stream (B,); may be set before every frame.

        Raises:
            ValueError: When set to what is no share.
        """
        return self._budget

    @budget.setter
    def budget(self, budget: Budget | Sequence[float]) -> None:
        self._budget = checked_budget(budget)

    def budget_per_stream(self, observation: GateObservation) -> Tensor:
        """The budget of each stream (B,), float32, on the observation's device.

        Raises:
            ValueError: If there is neither one budget nor one for each stream.
        """
        device, budget = observation.input_BND.device, self.budget
        if isinstance(budget, Tensor):
            budget_B = budget.to(device, torch.float32).reshape(-1)
        else:
            # Filled in on the device: a copy from the host cannot be part of a CUDA graph.
            budget_B = torch.full((1,), budget, device=device)
        if budget_B.numel() not in (1, observation.streams):
            raise ValueError(f"budget has {budget_B.numel()} entries for {observation.streams} streams")
        return budget_B.expand(observation.streams)


def checked_budget(budget: Budget | Sequence[float]) -> Budget:
    """A float, or a float32 tensor of several.

    Raises:
        ValueError: If one of them is not in (0, 1].
    """
    if isinstance(budget, bool | str):
        raise ValueError(f"budget must be a number, got {budget!r}")
    try:
        values = torch.as_tensor(budget, dtype=torch.float32, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"budget must be a number, or one for each stream, got {budget!r}") from error
    if not values.numel() or not bool(((values > 0) & (values <= 1)).all()):
        raise ValueError(f"budget must be a share of the dense MACs in (0, 1], got {budget}")
    if isinstance(budget, int | float):
        return float(budget)
    return budget if isinstance(budget, Tensor) else values
