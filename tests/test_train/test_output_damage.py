"""Training for what the consumer sees: the start, both estimators, credit by token, checkpoints."""

import math
from pathlib import Path

import pytest
import torch
from looking_task import PREFIX, RIGHT, TOKENS, LookingTask
from tiny_task import TinyTask

import eventful
import policies
from envs.damage import PRESETS, Objective
from envs.distill import Distillation
from envs.engine import SelectionEngine
from envs.episodes import Start
from policies import All, LearnedPolicy
from train.calibration import calibrate, calibration_frames, realised_share
from train.estimators.budget_control import BudgetControl
from train.estimators.gumbel import GumbelEstimator, GumbelOptions
from train.estimators.oracle import OracleOptions
from train.estimators.protocol import WindowOptions, differentiable_meter
from train.estimators.reinforce import ReinforceOptions
from train.estimators.streams import StreamSource
from train.loop import history
from train.loop.start import StartRule, best_rule
from train.policy import TrainConfig, train
from train.train_config import objective_of, reward_of


def config_for(out: Path, **changes) -> TrainConfig:
    settings = dict(
        out=str(out), task="looking", steps=4, window=2, streams=2, segment=2, oracle=OracleOptions(frames=3),
        calibration_streams=2, calibration_frames=6, policy_budgets=[0.2, 0.6], budget_min=0.2, budget_max=0.6,
        hidden=8, saliency_exponents=[0.0, 2.0], saliency_floors=[0.1],
    )  # fmt: skip
    if changes.get("estimator") == "reinforce":
        settings["reinforce"] = ReinforceOptions(rollouts=2)
    return TrainConfig(**{**settings, **changes})


@pytest.mark.parametrize("kind", [("gumbel", "frame"), ("reinforce", "frame"), ("gumbel", "gate")])
def test_training_starts_where_the_consumer_looks(tmp_path: Path, capsys, kind: tuple[str, str]) -> None:
    estimator, granularity = kind
    config = config_for(tmp_path, estimator=estimator, granularity=granularity, reward="output", steps=2)
    policy = policies.load(train(config, LookingTask(lengths=(6, 6))))
    said = capsys.readouterr().out
    assert "objective: output 1, output_worst 0.1; reward: output 1, output_worst 0.1" in said
    assert "start: log||e|| + 2 log(s + 0.1) (damage at a share of 0.346: log||e||: " in said
    heuristic = policies.load(tmp_path / "heuristic")
    assert isinstance(policy, LearnedPolicy) and policy.saliency and policy.saliency_exponent == 2
    assert isinstance(heuristic, LearnedPolicy) and heuristic.saliency_exponent == 2
    assert not torch.equal(policy.out.weight, heuristic.out.weight), "training must have moved the policy"
    assert policy.provenance.objective == {"output": 1.0, "output_worst": 0.1}


def test_an_interrupted_run_goes_on_from_the_rule_it_started_from(tmp_path: Path) -> None:
    task = LookingTask(lengths=(6, 6))
    train(config_for(tmp_path, minutes=1e-9), task)
    policy = policies.load(train(config_for(tmp_path), task))
    assert isinstance(policy, LearnedPolicy) and policy.saliency_exponent == 2
    assert [look["step"] for look in history.read(tmp_path)] == [0, 2, 4]


def test_the_best_rule_is_the_one_that_knows_where_to_look() -> None:
    task = LookingTask()
    model = eventful.wrap(task.model, All(), granularity="frame", saliency=task.saliency)
    frames = calibration_frames(task, task.clips("train"), 4, 12)
    engine = SelectionEngine("frame", task, reward={"kind": "output", "weight": 0.0, "scale": 1.0})

    def make(rule: StartRule, budgets) -> LearnedPolicy:
        return LearnedPolicy(1, 32, budgets=budgets, saliency_exponent=rule.saliency_exponent,
                             saliency_floor=rule.saliency_floor)  # fmt: skip

    best, earned = best_rule(make, model, frames, engine, 0.3, [0.0, 1.0], [0.1, 0.02])
    assert set(earned) == {StartRule(), StartRule(1.0, 0.1), StartRule(1.0, 0.02)}
    assert best.saliency_exponent == 1.0 and earned[best] == max(earned.values())
    assert -earned[best] < 0.8 * -earned[StartRule()]


def test_thresholds_are_calibrated_for_the_weighted_error() -> None:
    task = LookingTask()
    policy = LearnedPolicy(1, 32, budgets=[0.2, 0.5], saliency_exponent=2.0)
    model = eventful.wrap(task.model, policy, granularity="frame", saliency=task.saliency)
    frames = calibration_frames(task, task.clips("train"), 4, 12)
    found = calibrate(model, frames, [0.2, 0.5], policy.weighted_error)
    policy.table.log_threshold_KG.copy_(found.table.log_threshold_KG)
    for budget in (0.2, 0.5):
        policy.budget = budget
        assert math.log(realised_share(model, frames, policy.select) / budget) == pytest.approx(0, abs=0.15)
    plain = calibrate(model, frames, [0.2, 0.5])
    assert not torch.allclose(plain.table.log_threshold_KG, found.table.log_threshold_KG)


def test_each_token_answers_for_its_own_part_of_the_outputs() -> None:
    engine = SelectionEngine("frame", LookingTask(), reward={"kind": "output", "weight": 0.0})
    engine.start({0: Start(0, 0.3), 1: Start(1, 0.3)})
    engine.step(torch.zeros(2, TOKENS, dtype=torch.bool))
    for score in engine.step(torch.zeros(2, TOKENS, dtype=torch.bool)).values():
        assert score.damage_N is not None and score.damage_N.shape == (TOKENS,)
        assert float(score.damage_N.sum()) == pytest.approx(-score.reward, abs=1e-6)
        assert float(score.damage_N[:PREFIX].abs().max()) == 0
        assert float((score.damage_N[PREFIX:] * (1 - RIGHT)).abs().max()) == 0
        assert -0.025 * score.reward == pytest.approx(score.output["distance"] + 0.1 * score.output["worst"], rel=1e-5)
        assert score.info()["output"] == score.output


def test_gradients_flow_through_the_head_to_the_policy() -> None:
    """The estimator's damage is what the outputs moved; through its masks that can be differentiated."""
    task = LookingTask()
    policy = LearnedPolicy(1, 32, budgets=[0.5], saliency=True, saliency_exponent=1.0)
    policy.table.log_threshold_KG.fill_(-1.0)
    with torch.no_grad():
        policy.out.weight.normal_(std=0.1)
    model = eventful.wrap(task.model, policy, granularity="frame", saliency=task.saliency)
    source = StreamSource(task.clips("train"), range(2), (0.5, 0.5))
    windows = WindowOptions(window=4)
    estimator = GumbelEstimator(
        task, model, policy, PRESETS["output"], source, BudgetControl(policy), windows, GumbelOptions()
    )
    estimator.begin("0")
    stats = estimator.window().stats
    assert 0 < stats["output_distance"] < stats["loss"]
    assert policy.hidden.weight.grad is not None and policy.hidden.weight.grad.abs().sum() > 0


def test_a_classifiers_own_head_is_trained_for_without_labels(tmp_path: Path) -> None:
    """Distillation through the user's own head: one damage for the whole frame, both estimators."""
    footage = TinyTask(lengths=(6, 6), has_labels=False)

    class Own(Distillation):
        name = "own"

        def clips(self, split):
            return footage.clips("test" if split == "val" else split)

    for estimator in ("gumbel", "reinforce"):
        config = config_for(tmp_path / estimator, task="own", estimator=estimator)
        policy = policies.load(train(config, Own(footage.model)))
        assert isinstance(policy, LearnedPolicy) and not policy.saliency and policy.saliency_exponent == 0
        assert policy.provenance.objective == {"output": 1.0, "output_worst": 0.1}


def test_where_nothing_is_said_the_task_says_what_to_keep() -> None:
    looking, bare = LookingTask(), TinyTask()
    fidelity = Objective(fidelity=1.0, worst=0.2)
    assert objective_of(TrainConfig(), looking) == reward_of(TrainConfig(), looking) == PRESETS["output"]
    assert objective_of(TrainConfig(), bare) == reward_of(TrainConfig(), bare) == fidelity
    assert reward_of(TrainConfig(reward="fidelity"), looking) == fidelity
    assert objective_of(TrainConfig(reward="fidelity"), looking) == fidelity
    given = TrainConfig(objective=Objective(worst=0.5), reward="fidelity")
    assert objective_of(given, looking) == reward_of(given, looking) == Objective(worst=0.5)
    assert reward_of(TrainConfig(objective=fidelity, reward="output"), looking) == PRESETS["output"]
    assert objective_of(TrainConfig(reward="loss"), looking) == PRESETS["output"]
    with pytest.raises(ValueError, match="output_distance, which task tiny does not"):
        differentiable_meter(bare, eventful.wrap(bare.model, All()), PRESETS["output"])


def test_environments_show_and_reward_what_the_consumer_sees() -> None:
    engine = SelectionEngine("gate", LookingTask())
    assert engine.reward.kind == "output" and SelectionEngine("gate", TinyTask()).reward.kind == "fidelity"
    assert engine.features[-4:] == ("saliency", "saliency_max_3x3", "saliency_max_5x5", "saliency_change")
    engine.start({0: Start(0, 0.3)})
    shown_NF = torch.from_numpy(engine.observations()[0])
    expected = ((torch.cat([torch.ones(PREFIX), RIGHT]) + 0.02).log() + 2) / 2
    torch.testing.assert_close(shown_NF[:, -4], expected)
    assert float(shown_NF[:, -1].abs().max()) == 0
