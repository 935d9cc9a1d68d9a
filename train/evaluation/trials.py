"""Hand-made rules at their best: on training clips, by what they are to keep, at equal compute.

A rule has one knob, which is turned until it spends the budget on the calibration frames, and settings beside it. Each
setting is tried with the knob turned to the budget; the one with the least damage is taken: of the outputs, where the
task says how far they have moved, else of the final tokens (`envs.damage`). Learned policies are trained for the same.

Shape suffixes: B streams, T frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

import eventful
from envs.damage import PRESETS, DamageMeter, Outcome, default_kind
from envs.task import VideoTask
from policies import Policy
from train.calibration import CalibrationFrames, played, realised_share, solve_shift

FAR = 0.1
"""Log of realised over asked share beyond which a trial is out of the comparison, as long as another one is nearer."""

Knob = Callable[[float], Policy]
"""A rule with its knob turned: the log threshold raised by this much, the log of the count lowered."""

Setting = dict[str, float]
"""What a rule has beside its knob, by name."""


@dataclass(frozen=True)
class Trial:
    """A policy on the calibration frames.

    Attributes:
        share: Mean share of the dense MACs, over all streams and frames after the flush.
        damage: Mean damage, likewise.
    """

    share: float
    damage: float


class Trials:
    """Tries policies on calibration frames.

    Args:
        task: Task, which says what damage is.
        model: Eventful model around the task's; its policy is replaced by whatever is tried.
        frames: From `train.calibration.calibration_frames`.
        cache_bytes: Bytes for the dense model's outcomes; those that do not fit are computed again for every trial.
    """

    def __init__(
        self, task: VideoTask, model: eventful.EventfulModel, frames: CalibrationFrames, cache_bytes: int = 1 << 28
    ) -> None:
        self._task = task
        self._objective = PRESETS[default_kind(task)]
        self._meter = DamageMeter(task, model.backbone, output=self._objective.needs_outputs)
        self.model, self.frames = model, frames
        self._room = cache_bytes
        self._dense: dict[int, Outcome] = {}

    def at_budget(self, knob: Knob, budget: float) -> Policy:
        """A rule with its knob where it spends the budget, or as near as it gets."""

        def share_at(shift: float) -> float:
            self.model.policy = knob(shift)
            return realised_share(self.model, self.frames, self.model.policy.select)

        return knob(solve_shift(share_at, budget))

    def best(self, knobs: Sequence[Knob], budget: float) -> int:
        """Which of several rules does the least damage where it spends a budget."""
        ranks = [_rank(self._trial(knob, budget), budget) for knob in knobs]
        return ranks.index(min(ranks))

    @torch.inference_mode()
    def play(self, policy: Policy) -> Trial:
        """Runs a policy over the frames, from a flush."""
        self.model.policy = policy
        shares, damages = [], []
        for t, (features, share) in enumerate(played(self.model, self.frames, policy.select)):
            damage = self._meter.damage(self._meter.outcome(features, []), self._dense_outcome(t, self.frames[t + 1]))
            shares.append(share)
            damages.append(self._objective.of_frame(damage).mean())
        return Trial(float(torch.stack(shares).mean()), float(torch.stack(damages).mean()))

    def with_streams(self, most: int) -> Trials:
        """The same on some of the streams, evenly picked."""
        stride = max(self.frames[0].shape[0] // most, 1)
        frames = [frame[::stride][:most] for frame in self.frames]
        return Trials(self._task, self.model, frames, self._room)

    def _trial(self, knob: Knob, budget: float) -> Trial:
        tried: dict[float, Trial] = {}

        def share_at(shift: float) -> float:
            tried[shift] = self.play(knob(shift))
            return tried[shift].share

        return tried[solve_shift(share_at, budget)]

    def _dense_outcome(self, t: int, frame: torch.Tensor) -> Outcome:
        if t in self._dense:
            return self._dense[t]
        outcome = self._meter.dense(frame, [])
        if outcome.nbytes <= self._room:
            self._room -= outcome.nbytes
            self._dense[t] = outcome
        return outcome


def _rank(trial: Trial, budget: float) -> tuple[float, float]:
    """Less is better: first whether the budget is met, then the damage."""
    off = abs(math.log(max(trial.share, 1e-6) / budget))
    return (off if off > FAR else 0.0), trial.damage
