"""Where training starts: the best of the hand-made rules.

    log ||e|| + exponent * log(s + floor) > threshold

(`policies.features.weighted_log_error`). For each exponent and floor the threshold is set so that the rule spends the
middle budget on some training clips; the rule whose frames earn the most there is what the untrained policy is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from envs.engine import SelectionEngine
from eventful import EventfulModel
from policies import TrainablePolicy
from train import distributed
from train.calibration import CalibrationFrames, first_thresholds, install
from train.loop.playback import Playback

TOLERANCE, STEPS = 0.03, 6
"""Of the search for the threshold of a rule."""

STREAMS = 6
"""Clips at most on which rules are compared: each is played several times."""


@dataclass(frozen=True)
class StartRule:
    """Attributes as of `policies.TrainablePolicy`."""

    saliency_exponent: float = 0.0
    saliency_floor: float = 0.02

    def __str__(self) -> str:
        if not self.saliency_exponent:
            return "log||e||"
        return f"log||e|| + {self.saliency_exponent:g} log(s + {self.saliency_floor:g})"


def best_rule(
    make: Callable[[StartRule, Sequence[float]], TrainablePolicy],
    model: EventfulModel,
    frames: CalibrationFrames,
    engine: SelectionEngine,
    budget: float,
    exponents: Sequence[float],
    floors: Sequence[float],
) -> tuple[StartRule, dict[StartRule, float]]:
    """The rule that earns the most, and what each that was tried earned, in units of the engine's reward.

    Floors other than the first are tried with the best exponent alone.

    Args:
        make: An untrained policy that is such a rule, with a table for these budgets.
        model: That is trained; its policy is replaced.
        frames: Frames on which first thresholds are found.
        engine: Environments of the training clips.
        budget: At which rules are compared.
        exponents: Exponents to try.
        floors: Floors to try.
    """
    frames = [frame_BCHW[:STREAMS] for frame_BCHW in frames]
    playback = Playback(engine, streams=frames[0].shape[0], frames=len(frames))
    earned: dict[StartRule, float] = {}

    def best_of(rules: Sequence[StartRule]) -> StartRule:
        for rule in rules:
            if rule not in earned:
                policy = make(rule, [budget])
                model.policy = engine.model.policy = policy
                install(policy, first_thresholds(model, frames, [budget], policy.weighted_error))
                (point,) = playback.points(policy, [budget], TOLERANCE, STEPS)
                earned[rule] = point.reward
        known = list(earned)
        return known[distributed.as_the_first_says(known.index(max(known, key=earned.__getitem__)))]

    best = best_of([StartRule(exponent, floors[0] if exponent else StartRule.saliency_floor) for exponent in exponents])
    if best.saliency_exponent:
        best = best_of([StartRule(best.saliency_exponent, floor) for floor in floors])
    return best, earned
