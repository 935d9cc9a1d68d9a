"""Rules at their best: shares that meet budgets, settings that are told, what trials prefer, the best opponent."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_tiny import checkpoint, config
from squares_task import Squares, WatchedSquares

import eventful
import policies
from policies import All
from train.calibration import calibration_frames, realised_share
from train.evaluate import evaluate
from train.evaluation.bootstrap import Estimate
from train.evaluation.contenders import CAN_AGE, Contender
from train.evaluation.rules import Rules, in_words
from train.evaluation.trials import Trials

LOOKING = ["SaliencyThreshold", "SaliencyTopR", "SaliencyOrSurprise", "KeySimilarity"]


def trials(task: Squares, granularity: Any = "frame") -> Trials:
    model = eventful.wrap(task.model, All(), granularity=granularity, saliency=getattr(task, "saliency", None))
    return Trials(task, model, calibration_frames(task, task.clips("train"), 3, 11))


@pytest.mark.parametrize("granularity", ["frame", "gate"])
def test_every_rule_meets_its_budget_where_it_is_calibrated(granularity: Any) -> None:
    tried = trials(WatchedSquares(), granularity)
    budget = 0.3 if granularity == "frame" else 0.6
    rules = Rules(tried, [budget])
    for contender in [Contender(name, granularity) for name in (*LOOKING, "GlobalTopR")] + [
        Contender(name, granularity, aged=True) for name in CAN_AGE
    ]:
        policy, words = rules.policy(contender, budget)
        tried.model.policy = policy
        assert realised_share(tried.model, tried.frames, policy.select) == pytest.approx(budget, rel=0.12), words
        assert words == "calibrated" or "=" in words
        assert isinstance(policy, policies.AgeBound) == contender.aged
        assert ("max_age=" in words or "slope=" in words) or not contender.aged
        assert rules.policy(contender, budget)[0] is policy, "rules are set to a budget once"


def test_a_rule_is_the_same_whichever_other_budgets_there_are() -> None:
    words = []
    for budgets in ([0.2, 0.4], [0.2, 0.4, 0.8]):
        rules = Rules(trials(WatchedSquares()), budgets)
        words.append([rules.policy(Contender(name, "frame"), 0.4)[1] for name in ("SaliencyThreshold", "SaliencyTopR")])
    assert words[0] == words[1]


def test_a_rule_is_worded_by_what_it_is_set_to() -> None:
    bounded = policies.AgeBound(policies.SaliencyTopR(39, 0.5, 0.1), max_age=12)
    assert in_words(bounded) == "r=39, exponent=0.5, floor=0.1, max_age=12"
    table = policies.ThresholdTable([0.1], 1)
    soft = policies.AgeBound(policies.CalibratedThreshold(table), slope=0.3)
    assert in_words(soft) == "slope=0.3" and in_words(policies.KeySimilarity(table)) == "calibrated"


def test_trials_take_the_rule_with_the_least_damage_at_the_budget() -> None:
    tried = trials(WatchedSquares())
    layout = tried.model.layout(tried.frames[0])
    r = layout.count(0.3)
    knobs = [
        lambda shift: policies.Random(min(r * math.exp(-shift), layout.tokens) / layout.tokens),
        lambda shift: policies.TopR(round(r * math.exp(-shift))),
        # It does less damage, but only because it spends more than it is asked to.
        lambda shift: policies.All(),
    ]
    assert tried.best(knobs, 0.3) == 1
    assert tried.play(All()).damage == pytest.approx(0, abs=1e-5)
    few = tried.with_streams(2)
    assert few.frames[0].shape[0] == 2 and len(few.frames) == len(tried.frames)


def test_damage_is_that_of_the_outputs_where_there_is_one() -> None:
    seen, blind = trials(WatchedSquares()), trials(Squares())
    damages = [t.play(policies.Nothing()).damage for t in (seen, blind)]
    assert damages[0] != pytest.approx(damages[1], rel=0.01)


def test_the_best_opponent_is_named_and_the_ratio_to_it_has_an_interval(tmp_path: Path) -> None:
    task = WatchedSquares()
    names = ["Learned", "SaliencyThreshold", "SaliencyOrSurprise", "KeySimilarity", "CalibratedThreshold", "Random+age"]
    policy = checkpoint(task, tmp_path / "a" / "policy")
    given = config(tmp_path, policy=policy, policies=names, tolerance=0.5, loose_tolerance=0.8)
    comparison = evaluate(given, task)
    learned = next(c for c in comparison.lines if c.learned)
    measure = comparison.measures[0]
    for blind in (False, True):
        rules = comparison.rules(blind)
        assert {c.name.startswith("Saliency") for c in rules} == ({False} if blind else {False, True})
        for budget in comparison.budgets:
            found = comparison.against_best(learned, measure, budget, blind)
            assert found is not None and found.theirs in rules
            least = min(
                d.estimate.value for d in comparison.differences(measure) if d.theirs in rules and d.budget == budget
            )
            assert found.estimate.value == pytest.approx(least)
    best = comparison.thriftiest(0.8)
    assert best is not None
    ratio = comparison.needed_ratio(learned, best, 0.8)
    shares: list[Estimate] = [comparison.needed(c, 0.8) for c in (learned, best)]
    assert ratio.value == pytest.approx(shares[0].value / shares[1].value)
    assert ratio.low <= ratio.value <= ratio.high
    assert all(shares[1].value <= comparison.needed(c, 0.8).value for c in comparison.rules())
    summary = (tmp_path / "out" / "summary.md").read_text()
    for text in (
        "best of 5 rules",
        "best of 3 that does not look at the outputs",
        "50 % of the dense",
        "20 % of the dense",
    ):
        assert text in summary
    table = (tmp_path / "out" / "table.csv").read_text()
    assert "exponent=" in table and "max_age=" in table and "salient=" in table


def test_without_saliency_there_is_nobody_left(tmp_path: Path) -> None:
    with pytest.raises(eventful.EventfulError, match=r"nobody left to compare .*no saliency"):
        evaluate(config(tmp_path, policies=["SaliencyTopR"]), Squares())
    assert torch.is_inference_mode_enabled() is False
