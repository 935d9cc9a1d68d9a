"""What a policy is trained to keep: fidelity to the dense model on the same frame, and the task's own loss.

    loss = fidelity * (mean token distance) + worst * (mean of the 20 worst) + task * (task loss - dense task loss)

Shape suffixes: B streams, N tokens, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import eventful
from envs.task import Target, VideoTask, token_distance


@dataclass(frozen=True)
class Objective:
    """Weights of the loss terms.

    Attributes:
        fidelity: Of the mean distance of the final tokens (1 - cosine).
        worst: Of the mean over the 20 worst tokens.
        task: Of the task loss above the dense model's (tasks with labels only).
    """

    fidelity: float = 1.0
    worst: float = 0.2
    task: float = 0.0


@dataclass(frozen=True)
class Terms:
    """Loss terms of one frame, each per stream (B,)."""

    total_B: Tensor
    mean_B: Tensor
    worst_B: Tensor
    task_B: Tensor


class FrameLoss:
    """Scores eventful features of one frame against the dense model's.

    Args:
        task: Model and labels.
        model: The eventful model around the task's model.
        weights: Of the terms.

    Raises:
        ValueError: If the task term has a weight and the task has no labels.
    """

    def __init__(self, task: VideoTask, model: eventful.EventfulModel, weights: Objective) -> None:
        if weights.task and not task.has_labels:
            raise ValueError(f"objective.task is {weights.task}, but the task {task.name!r} has no labels; set it to 0")
        self._task, self._backbone, self._weights = task, model.backbone, weights

    @torch.no_grad()
    def dense(self, frame: Tensor) -> Tensor:
        """The dense model's features of a frame."""
        return self._backbone.vit.forward_features(frame)  # type: ignore[operator]

    def __call__(self, features: Tensor, dense: Tensor, targets: Sequence[Target]) -> Terms:
        """The terms; differentiable in the features."""
        weights = self._weights
        mean_B, worst_B = token_distance(features, dense)
        task_B = torch.zeros_like(mean_B)
        if weights.task:
            with torch.no_grad():
                floor_B = self._task.loss(self._backbone.head(dense), targets)
            task_B = self._task.loss(self._backbone.head(features), targets) - floor_B
        total_B = weights.fidelity * mean_B + weights.worst * worst_B + weights.task * task_B
        return Terms(total_B, mean_B, worst_B, task_B)
