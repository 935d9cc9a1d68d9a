"""Motion compensation from the training's setting to the model that a checkpoint runs in."""

from __future__ import annotations

from pathlib import Path

import pytest
from looking_task import LookingTask

import eventful
import policies
from eventful.errors import UserError
from eventful.infer import prepare
from policies import LearnedPolicy
from train.estimators.oracle import OracleOptions
from train.evaluate import evaluate
from train.evaluate_config import EvaluateConfig
from train.policy import TrainConfig, train
from train.train_config import check


def config_for(out: Path, **changes) -> TrainConfig:
    settings = dict(
        out=str(out), task="looking", steps=1, window=2, streams=2, segment=2, oracle=OracleOptions(frames=3),
        calibration_streams=2, calibration_frames=6, policy_budgets=[0.2, 0.6], budget_min=0.2, budget_max=0.6,
        hidden=8, saliency_exponents=[0.0],
    )  # fmt: skip
    return TrainConfig(**{**settings, **changes})


@pytest.mark.parametrize("estimator", ["gumbel", "reinforce"])
def test_what_a_policy_was_trained_with_is_what_it_is_run_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, estimator: str
) -> None:
    task = LookingTask(lengths=(6, 6))
    folder = train(config_for(tmp_path / "run", estimator=estimator, motion_compensation=True), task)
    policy = policies.load(folder)
    assert isinstance(policy, LearnedPolicy) and policy.motion
    assert policy.provenance.options["motion_compensation"] is True
    assert prepare(policy, task, device="cpu").model.options.motion_compensation
    settings = dict(out=str(tmp_path / "evaluation"), policy=str(folder), task="looking", budgets=[0.4])
    settings |= dict(policies=["Learned", "TopR@gate"], calibration_streams=2, calibration_frames=6, bootstrap=5)
    wrapped, wrap = [], eventful.wrap
    monkeypatch.setattr(eventful, "wrap", lambda *args, **options: wrapped.append(options) or wrap(*args, **options))
    evaluate(EvaluateConfig(**settings, latency=False, plots=False), task)
    found = {options["granularity"]: options["motion_compensation"] for options in wrapped}
    assert found == {"frame": True, "gate": False}


def test_it_is_for_one_decision_a_frame(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="motion_compensation is read by granularity=frame only"):
        check(config_for(tmp_path, motion_compensation=True, granularity="gate"))
