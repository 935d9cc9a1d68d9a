"""What the two estimators have in common: they turn a window of frames into a gradient for the policy.

Shape suffixes: B streams, T frames, G gates, N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from envs.damage import DamageMeter, Objective
from envs.task import VideoTask
from eventful import EventfulModel, StreamState
from eventful.checks.ranges import check_ranges, setting
from train.estimators.budget_control import BudgetControl


@dataclass
class WindowOptions:
    """Settings of every estimator.

    Attributes:
        window: Number T of frames of a window: gradients, or rewards, reach as far.
        sharpness: Logits per unit of score (one unit of log error).

    Raises:
        ValueError: If a value is out of range.
    """

    window: int = setting(8, "[1, 256]")
    sharpness: float = setting(4.0, "(0, 1000]")

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass
class WindowResult:
    """Outcome of a window, for the logs.

    Attributes:
        stats: Means over streams and frames, flushes left out; the same on all processes.
        rates_TG: Share of the tokens that each gate updated in each frame, first stream.
        masks_TN: Tokens that the first gate updated, first stream, for heat maps.
        ages: Frames since the first gate last updated each token, for a histogram.
    """

    stats: dict[str, float]
    rates_TG: Tensor
    masks_TN: Tensor
    ages: Tensor


class Estimator(Protocol):
    """Accumulates `.grad` of the policy's parameters, window by window.

    Attributes:
        budget_control: Price of compute, and thresholds; all that an estimator carries from one fresh start of the
            streams to the next.
    """

    budget_control: BudgetControl

    def begin(self, seed: str) -> None:
        """Starts all streams afresh; everything random from here on follows from the seed."""

    def window(self) -> WindowResult:
        """Runs the next frames of all streams, and backpropagates."""


def differentiable_meter(task: VideoTask, model: EventfulModel, objective: Objective) -> DamageMeter:
    """Measures damage with gradients.

    Raises:
        ValueError: If the objective contains the task's metric, or needs labels, or a distance of outputs, that the
            task does not have.
    """
    if objective.metric:
        raise ValueError("objective.metric has no gradient: estimator=reinforce takes it, gumbel and the oracle cannot")
    return DamageMeter(task, model.backbone, loss=objective.task > 0, output=objective.needs_outputs)


@dataclass
class WindowRecord:
    """Collects what was updated during a window."""

    updated: list[Tensor] = field(default_factory=list)
    ages: list[Tensor] = field(default_factory=list)

    def frame(self, state: StreamState) -> None:
        """Notes what a frame has updated, unless it was nothing but a flush."""
        if state.flushed_B is not None and not state.flushed_B.all():
            ages_BGN = state.ages()
            self.updated.append((ages_BGN[0] == 0).cpu())
            self.ages.append(ages_BGN[:, 0].float().cpu().flatten())

    def result(self, stats: dict[str, float], tokens: int, gates: int) -> WindowResult:
        """Everything together; a window that was nothing but flushes has no rates."""
        none_TGN = torch.zeros(0, gates, tokens, dtype=torch.bool)
        updated_TGN = torch.stack(self.updated) if self.updated else none_TGN
        rates_TG, masks_TN = updated_TGN.float().mean(2), updated_TGN[:, 0]
        ages = torch.cat(self.ages) if self.ages else torch.zeros(0)
        return WindowResult(stats, rates_TG, masks_TN, ages)
