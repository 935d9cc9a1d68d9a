"""Following what was in a box, end to end: training, evaluation against the dense model, inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from footage import write_video

import eventful
import policies
from envs.follow import Follow
from eventful import infer
from policies import All, Nothing
from train.estimators.reinforce import ReinforceOptions
from train.evaluate import EvaluateConfig, evaluate
from train.evaluation.results_file import Key
from train.evaluation.rollout import Footage, evaluate_policy
from train.policy import TrainConfig, train

THRESHOLD = {"threshold": 0.4}
"""To an untrained model all tokens look alike."""


@pytest.fixture
def video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVENTFUL_CACHE", str(tmp_path / "cache"))
    return write_video(tmp_path / "a.mkv", 40)


@pytest.fixture
def options(video: Path, tmp_path: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", img_size=(96, 128)).state_dict(), tmp_path / "tiny.pth")
    given = {"model": "test_vit", "weights": str(tmp_path / "tiny.pth"), "image_size": [96, 128]}
    return {**given, "video": str(video), "box": [0.0, 20.0, 24.0, 44.0], "clip_length": 8, "distractor": "picture"}


@pytest.mark.parametrize("measure", ["mask", "box"])
def test_the_dense_model_has_metric_one(options: dict[str, Any], measure: str) -> None:
    task = Follow(**options, **THRESHOLD, measure=measure)
    footage = Footage(task, task.clips("test"), 2, torch.device("cpu"), torch.float32, cache_bytes=0)
    draws = np.array([[0]])
    for granularity in ("frame", "gate"):
        model = eventful.wrap(task.model, All(), granularity=granularity)
        everything, nothing = (
            evaluate_policy(model, policy, footage, Key("x"), draws).metric_R[0] for policy in (All(), Nothing())
        )
        assert everything == 1 and 0 <= nothing <= 1 and (nothing < 1 or measure == "box")


def test_trained_evaluated_and_run(options: dict[str, Any], tmp_path: Path, video: Path) -> None:
    small = {"calibration_streams": 2, "calibration_frames": 6}
    config = TrainConfig(
        **options, **small, task_options=THRESHOLD, out=str(tmp_path / "run"), task="envs.follow:Follow",
        estimator="reinforce", reward="output", warm_start="none", reinforce=ReinforceOptions(rollouts=2),
        steps=2, segment=1, window=2, streams=2, policy_budgets=[0.2, 0.6], budget_min=0.2, budget_max=0.6, hidden=8,
    )  # fmt: skip
    path = train(config)
    policy = policies.load(path)
    assert policy.saliency and policy.provenance.objective == {"output": 1.0, "output_worst": 0.1}
    assert policy.provenance.task_options["box"] == options["box"]
    settings = EvaluateConfig(
        policy=str(path), task="envs.follow:Follow", policies=["Learned", "TopR"], budgets=[0.3], bootstrap=5,
        latency=False, plots=False, out=str(tmp_path / "evaluation"), **small,
    )  # fmt: skip
    comparison = evaluate(settings)
    assert [measure.id for measure in comparison.measures] == ["metric", "distance", "worst"]
    assert "mask IoU" in (tmp_path / "evaluation/table.md").read_text()
    (result,) = infer.run(video, path, task="envs.follow:Follow", max_frames=1)
    assert result.flush and all(found["label"] == "match" for found in result.predictions)
