"""What policies earn on the same clips, at equal compute.

Rewards can be compared only at equal compute, and thresholds drift in training. So each policy is looked at with its
thresholds shifted, for all gates alike, until it spends exactly the budget on these clips. This judges which tokens a
policy ranks first and when it spends; how well its thresholds keep a budget on new footage is for `eventful-evaluate`.

Shape suffixes: B streams, T frames, K budgets, G gates.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from envs.engine import SelectionEngine
from envs.episodes import Start
from envs.gymnasium_env import picture
from envs.scoring import FrameScore
from eventful.video.frames import Frame
from policies import ThresholdTable, TrainablePolicy
from train.calibration import solve_shift

TOLERANCE = 0.01
"""Largest distance of log share from log budget."""

STEPS = 10
"""Trials per budget at most."""


@dataclass(frozen=True)
class ValidationPoint:
    """A policy at a budget.

    Attributes:
        budget: Asked share of the dense MACs.
        share: Realised share.
        reward: Mean over streams and frames, in units of the engine's reward.
        distance: Mean token distance to the dense model.
    """

    budget: float
    share: float
    reward: float
    distance: float


class Playback:
    """Plays clips from their flush, with a policy deciding.

    Args:
        engine: Environments of the clips.
        streams: B clips at most, evenly picked.
        frames: T frames of each at most, the flush included.

    Raises:
        ValueError: If no clip has two frames.
    """

    def __init__(self, engine: SelectionEngine, streams: int, frames: int) -> None:
        self._engine = engine
        moving = [k for k, clip in enumerate(engine.clips) if len(clip) >= 2]
        if not moving:
            raise ValueError("validation needs clips of at least two frames")
        self._clips = moving[:: max(len(moving) // streams, 1)][:streams]
        self._frames = min(frames, *(len(engine.clips[clip]) for clip in self._clips))

    @torch.no_grad()
    def points(
        self, policy: TrainablePolicy, budgets: Sequence[float], tolerance: float = TOLERANCE, steps: int = STEPS
    ) -> list[ValidationPoint]:
        """What a policy earns where it spends each budget; the policy stays as it is."""
        shifted = copy.deepcopy(policy)
        shifted.table = _table_at(policy.table, budgets)
        found = []
        for k, budget in enumerate(budgets):
            tried: dict[float, ValidationPoint] = {}
            start_G = shifted.table.log_threshold_KG[k].clone()

            def share_at(
                shift: float, k: int = k, start_G: torch.Tensor = start_G, tried: dict[float, ValidationPoint] = tried
            ) -> float:
                shifted.table.log_threshold_KG[k] = start_G + shift
                tried[shift] = self._play(shifted, budgets[k])
                return tried[shift].share

            found.append(tried[solve_shift(share_at, budget, tolerance, steps)])
        return found

    @torch.no_grad()
    def pictures(self, policy: TrainablePolicy, budget: float, count: int = 5) -> list[Frame]:
        """Some frames of the first clip, evenly picked, with what the policy updates tinted, uint8 (H, W, 3)."""
        engine = self._engine
        policy.budget, before = budget, policy.budget
        engine.clear()
        engine.start({0: Start(self._clips[0], budget)})
        shown, found = set(np.linspace(1, self._frames - 1, count).round().astype(int).tolist()), []
        for frame in range(1, self._frames):
            for _ in range(engine.layout.gates):
                engine.step(policy.select(engine.observe()).as_mask(engine.layout.tokens))
            if frame in shown:
                found.append(picture(engine, 0))
        policy.budget = before
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
