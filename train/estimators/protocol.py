"""What the two estimators have in common: they turn a window of frames into a gradient for the policy.

Shape suffixes: B streams, T frames, G gates, N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from policies import GateObservation
from train.estimators.budget_control import BudgetControl


@dataclass
class WindowResult:
    """Outcome of a window, for the logs.

    Attributes:
        stats: Means over streams and frames, flushes left out; the same on all processes.
        rates_TG: Share of tokens selected at each gate in each frame, first stream.
        masks_TN: The first stream's selections at the first gate, for heat maps.
        ages: Ages of all tokens at the first gate, for a histogram.
    """

    stats: dict[str, float]
    rates_TG: Tensor
    masks_TN: Tensor
    ages: Tensor


class Estimator(Protocol):
    """Accumulates `.grad` of the policy's parameters, window by window.

    Attributes:
        budget_control: Price and thresholds; all that an estimator carries from one fresh start of the streams to the
            next.
    """

    budget_control: BudgetControl

    def begin(self, seed: str) -> None:
        """Starts all streams afresh; everything random from here on follows from the seed."""

    def window(self) -> WindowResult:
        """Runs the next frames of all streams, and backpropagates."""


@dataclass
class WindowRecord:
    """Collects what was selected during a window."""

    masks: list[Tensor] = field(default_factory=list)
    rates: list[list[Tensor]] = field(default_factory=list)
    ages: list[Tensor] = field(default_factory=list)

    def decision(self, observation: GateObservation, mask_BN: Tensor) -> None:
        """Notes one decision."""
        hard_BN = mask_BN.detach() > 0.5
        if observation.gate == 0:
            self.rates.append([])
            self.masks.append(hard_BN[0].cpu())
            self.ages.append(observation.age_BN.float().cpu().flatten())
        self.rates[-1].append(hard_BN[0].float().mean().cpu())

    def result(self, stats: dict[str, float], tokens: int, gates: int) -> WindowResult:
        """Everything together; a window that was nothing but flushes has no rates."""
        rates_TG = torch.tensor([[float(r) for r in frame] for frame in self.rates]).reshape(-1, gates)
        masks_TN = torch.stack(self.masks) if self.masks else torch.zeros(0, tokens, dtype=torch.bool)
        ages = torch.cat(self.ages) if self.ages else torch.zeros(0)
        return WindowResult(stats, rates_TG, masks_TN, ages)
