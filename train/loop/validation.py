"""The frontier as it moves during training: what learned and heuristic policies earn on validation clips.

Rewards can be compared only at equal compute, and thresholds drift in training. So each policy is looked at with its
thresholds shifted, for all gates alike, until it spends exactly the budget on these clips. This judges which tokens a
policy ranks first and when it spends; how well its thresholds keep a budget on new footage is for `eventful-evaluate`.

Shape suffixes: B streams, T frames, K budgets, G gates.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from envs.engine import SelectionEngine
from envs.episodes import Start
from envs.scoring import FrameScore
from policies import ThresholdTable, TrainablePolicy
from train.calibration import solve_shift

TOLERANCE = 0.01
"""Largest distance of log share from log budget."""

STEPS = 10
"""Trials per budget at most."""


@dataclass(frozen=True)
class ValidationPoint:
    """A policy at a budget, on the validation clips.

    Attributes:
        budget: Asked share of the dense MACs.
        share: Realised share.
        reward: Mean reward over streams and frames, in units of the engine's reward.
        distance: Mean token distance to the dense model.
    """

    budget: float
    share: float
    reward: float
    distance: float


ValidationPoints = dict[str, list[ValidationPoint]]


class Validation:
    """Rolls policies out in an environment of validation clips.

    Args:
        engine: Environments of the validation clips.
        learned: Policy in training.
        heuristic: Policy as it was before training.
        budgets: K target shares of the dense MACs at which to look.
        streams: Largest number B of clips.
        frames: Largest number T of frames of each clip, the flush included.

    Raises:
        ValueError: If no clip has two frames.
    """

    def __init__(
        self,
        engine: SelectionEngine,
        learned: TrainablePolicy,
        heuristic: TrainablePolicy,
        budgets: Sequence[float] = (0.1, 0.2),
        streams: int = 8,
        frames: int = 32,
    ) -> None:
        self._engine, self._budgets, self._learned = engine, budgets, learned
        moving = [k for k, clip in enumerate(engine.clips) if len(clip) >= 2]
        if not moving:
            raise ValueError("validation needs clips of at least two frames")
        self._clips = moving[:: max(len(moving) // streams, 1)][:streams]
        self._frames = min(frames, *(len(engine.clips[clip]) for clip in self._clips))
        self._heuristic = self._points(heuristic.to(next(learned.parameters()).device))

    def points(self) -> ValidationPoints:
        """Points of both policies, by budget."""
        return {"learned": self._points(self._learned), "heuristic": self._heuristic}

    @torch.no_grad()
    def _points(self, policy: TrainablePolicy) -> list[ValidationPoint]:
        shifted = copy.deepcopy(policy)
        shifted.table = _table_at(policy.table, self._budgets)
        found = []
        for k, budget in enumerate(self._budgets):
            tried: dict[float, ValidationPoint] = {}
            start_G = shifted.table.log_threshold_KG[k].clone()

            def share_at(
                shift: float, k: int = k, start_G: torch.Tensor = start_G, tried: dict[float, ValidationPoint] = tried
            ) -> float:
                shifted.table.log_threshold_KG[k] = start_G + shift
                tried[shift] = self._play(shifted, self._budgets[k])
                return tried[shift].share

            found.append(tried[solve_shift(share_at, budget, TOLERANCE, STEPS)])
        return found

    def _play(self, policy: TrainablePolicy, budget: float) -> ValidationPoint:
        """All clips from their flush, with the policy deciding."""
        engine = self._engine
        policy.budget = budget
        engine.clear()
        engine.start({b: Start(clip, budget) for b, clip in enumerate(self._clips)})
        scores: list[FrameScore] = []
        for _ in range((self._frames - 1) * engine.layout.gates):
            mask_BN = policy.select(engine.observe()).as_mask(engine.layout.tokens)
            scores += engine.step(mask_BN).values()
        return ValidationPoint(budget, *(_mean(scores, name) for name in ("share", "reward", "distance")))


def _mean(scores: Sequence[FrameScore], name: str) -> float:
    return sum(getattr(score, name) for score in scores) / len(scores)


def _table_at(table: ThresholdTable, budgets: Sequence[float]) -> ThresholdTable:
    """A table with knots at exactly these budgets."""
    device = table.log_threshold_KG.device
    found = ThresholdTable(budgets, table.gates).to(device)
    for gate in range(table.gates):
        found.log_threshold_KG[:, gate] = table(gate, torch.tensor(budgets, device=device))
    return found


def as_rows(points: Mapping[str, Sequence[ValidationPoint]]) -> list[dict[str, float | str]]:
    """Plain data, one row for each policy and budget."""
    return [{"policy": name, **vars(point)} for name, some in points.items() for point in some]
