"""Budgets: which share of the dense MACs a policy aims at, one for all streams or one for each; counts of tokens.

Shape suffixes: B streams.
"""

from __future__ import annotations

import operator
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


def excess(observation: GateObservation, spent_over_asked_B: Tensor, limit: float) -> Tensor:
    """By how much more than it should a stream has spent in the preceding frame (B,), within limits.

    The relative, not the logarithmic, excess: its mean is zero where the mean spending is what was asked. Zero after a
    flush, which was not the policy's choice.
    """
    excess_B = (spent_over_asked_B - 1).clamp(-limit, limit)
    return excess_B if observation.flushed_B is None else excess_B.masked_fill(observation.flushed_B, 0)


def checked_count(name: str, value: int, least: int = 0) -> int:
    """A whole number of tokens or frames.

    Raises:
        ValueError: If it is none, or below the least, by its name.
    """
    try:
        count = operator.index(None if isinstance(value, bool) else value)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {value}") from None
    if count < least:
        raise ValueError(f"{name} must be at least {least}, got {count}")
    return count
