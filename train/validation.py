"""The frontier as it moves during training: share of MACs and distance on validation clips, learned against heuristic.

Shape suffixes: B streams, T frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

import eventful
from envs.task import VideoTask, token_distance
from policies import LearnedPolicy, Policy
from train.calibration import calibration_frames

Points = dict[str, list[tuple[float, float, float]]]


class Validation:
    """Runs policies over a few validation clips.

    Args:
        task: With a `val` split.
        model: Eventful model around the task's model.
        learned: The policy in training.
        heuristic: The same policy before training.
        budgets: At which to look.
        streams: Clips at most.
        frames: Frames of each at most.
    """

    def __init__(
        self,
        task: VideoTask,
        model: eventful.EventfulModel,
        learned: LearnedPolicy,
        heuristic: LearnedPolicy,
        budgets: Sequence[float] = (0.05, 0.1, 0.2),
        streams: int = 6,
        frames: int = 24,
    ) -> None:
        self._task, self._model, self._budgets = task, model, budgets
        self._policies = {"learned": learned, "heuristic": heuristic.to(next(learned.parameters()).device)}
        self._sizes = streams, frames

    @torch.inference_mode()
    def points(self) -> Points:
        """For each policy: (asked budget, realised share, mean distance to the dense model's tokens)."""
        frames = calibration_frames(self._task, self._task.clips("val"), *self._sizes)
        dense = [self._task.model.forward_features(frame) for frame in frames]  # type: ignore[operator]
        points: Points = {}
        for name, policy in self._policies.items():
            points[name] = []
            kept = policy.budget
            for budget in self._budgets:
                policy.budget = budget
                points[name].append((budget, *self._run(policy, frames, dense)))
            policy.budget = kept
        return points

    def _run(
        self, policy: Policy, frames: Sequence[torch.Tensor], dense: Sequence[torch.Tensor]
    ) -> tuple[float, float]:
        state, shares, distances = None, [], []
        for t, (frame, expected) in enumerate(zip(frames, dense, strict=True)):
            features, state = eventful.drive(self._model.decisions(frame, state), policy.select)
            if t and state.macs is not None:
                shares.append(state.macs.ratio.mean())
                distances.append(token_distance(features, expected)[0].mean())
        return float(torch.stack(shares).mean()), float(torch.stack(distances).mean())
