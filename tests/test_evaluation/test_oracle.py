"""The oracle of the damage, rolled out: better than what it is a yardstick for, no opponent, and never by accident."""

from pathlib import Path

import pytest
import torch
from evaluation_tiny import checkpoint, config
from seen import observation
from squares_task import Squares

import eventful
import policies
from envs.benefit import update_benefits
from envs.damage import PRESETS, DamageMeter
from train.evaluate import evaluate
from train.evaluation.contenders import DEFAULT
from train.evaluation.oracle import Oracle, PricedOracle


@pytest.mark.parametrize("granularity", ["frame", "gate"])
def test_it_does_less_damage_than_top_r_at_the_same_compute(granularity, tmp_path: Path):
    asked = config(tmp_path, granularity=granularity, policies=["Oracle", "TopR"], budgets=[0.2])
    comparison = evaluate(asked, Squares())
    by_name = {c.name: comparison.points(c)[0] for c in comparison.lines}
    assert by_name["Oracle"].share.value == pytest.approx(by_name["TopR"].share.value)
    assert by_name["Oracle"].quality["distance"].value < by_name["TopR"].quality["distance"].value


def test_by_price_it_spends_where_it_pays_and_the_same_in_the_mean(tmp_path: Path):
    asked = config(tmp_path, granularity="frame", policies=["PricedOracle", "Oracle"], budgets=[0.3])
    comparison = evaluate(asked, Squares())
    by_name = {c.name: comparison.points(c)[0] for c in comparison.lines}
    priced, same = by_name["PricedOracle"], by_name["Oracle"]
    assert priced.share.value == pytest.approx(same.share.value, rel=0.25)
    assert priced.quality["distance"].value < 1.2 * same.quality["distance"].value


def test_a_price_is_steered_to_the_mean_count():
    task = Squares()
    model = eventful.wrap(task.model, policies.TopR(2), granularity="frame")
    oracle = PricedOracle(task, model, 3)
    generator = torch.Generator().manual_seed(0)
    counts = []
    for k in range(400):
        busy = 10.0 if k % 4 == 0 else 0.1
        oracle._benefit_GBN = busy * torch.rand(1, 2, 13, generator=generator)
        counts.append(oracle.select(observation(tokens=13, prefix=0)).as_mask(13).sum(1).double().mean())
    assert float(torch.stack(counts[100:]).mean()) == pytest.approx(3, rel=0.05)
    assert float(torch.stack(counts[100::4]).mean()) > 8, "where benefits are large, more is updated"


def test_it_is_no_opponent_and_has_to_be_asked_for(tmp_path: Path):
    task = Squares()
    names = ["Learned", "Oracle", "TopR"]
    asked = config(tmp_path, policy=checkpoint(task, tmp_path / "policy"), policies=names, budgets=[0.2])
    comparison = evaluate(asked, task)
    assert [c.name for c in comparison.rules()] == ["TopR"]
    assert "oracle" in (tmp_path / "out" / "table.md").read_text()
    assert "Oracle" not in DEFAULT


def test_benefits_are_the_slopes_of_the_damage_and_leave_the_state_as_it_is():
    task = Squares()
    model = eventful.wrap(task.model, policies.TopR(2), granularity="frame")
    clip = task.clips("test")[0]
    frames = [task.preprocess(clip.frames_THWC[t : t + 1]) for t in range(4)]
    meter, objective = DamageMeter(task, model.backbone), PRESETS["fidelity"]
    state = _after(model, frames[:3])
    before = state.clone()
    (benefit_BN,) = update_benefits(model, meter, objective, frames[3], [], state)
    assert torch.equal(model.step(frames[3], state)[0], model.step(frames[3], before.clone())[0])

    def damage(token: int, step: float) -> float:
        mask_BN = torch.full_like(benefit_BN, 0.5)
        mask_BN[0, token] += step
        steps = model.decisions(frames[3], before.clone(), masked=True)
        features, _ = eventful.drive(steps, lambda observation: policies.Selection(mask_BN=mask_BN))
        found = meter.damage(meter.outcome(features, []), meter.dense(frames[3], []))
        return float(objective.of_frame(found).sum())

    token = int(benefit_BN[0].argmax())
    slope = (damage(token, 0.01) - damage(token, -0.01)) / 0.02
    assert float(benefit_BN[0, token]) == pytest.approx(-slope, rel=0.02)


def _after(model: eventful.EventfulModel, frames: list[torch.Tensor]) -> eventful.StreamState:
    state = None
    for frame in frames:
        _, state = model.step(frame, state)
    return state


def test_a_frame_that_was_not_foreseen_is_an_error():
    task = Squares()
    model = eventful.wrap(task.model, policies.TopR(2), granularity="frame")
    model.policy = Oracle(task, model, 2)
    clip = task.clips("test")[0]
    model(task.preprocess(clip.frames_THWC[:1]))
    with pytest.raises(RuntimeError, match="foresee"):
        model(task.preprocess(clip.frames_THWC[1:2]))
