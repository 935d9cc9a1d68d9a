"""What a run sets on objects that are given to it does not reach the next run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from footage import write_video

import policies
from envs.distill import Distillation
from eventful.infer import run
from train.evaluate import evaluate
from train.evaluate_config import EvaluateConfig


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "a.mp4", 60, 64, 96)


def task(video: Path) -> Distillation:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=(32, 48), num_classes=0)
    return Distillation(model, video, clip_length=10, cache=video.parent / "cache")


FRAME = {"granularity": "frame"}


@pytest.mark.parametrize("asked", [{"budget": 0.7}, {"budget": [(0, 0.7), (2, 0.4)]}, {"rate": 1000.0}])
@pytest.mark.parametrize("frames", [1, 4])
def test_a_run_gives_the_budget_back(asked: dict[str, Any], frames: int, video: Path) -> None:
    policy = policies.LearnedPolicy(1, 64, budget=0.2)
    results = run(video, policy, task(video), options=FRAME, device="cpu", **asked)
    for _ in range(frames):
        next(results)
    results.close()
    assert policy.budget == 0.2
    assert {result.budget for result in run(video, policy, task(video), options=FRAME, device="cpu", max_frames=2)} == {
        0.2
    }


def test_a_budget_that_is_turned_by_hand_stays(video: Path) -> None:
    policy = policies.LearnedPolicy(1, 64, budget=0.2)
    for result in run(video, policy, task(video), options=FRAME, device="cpu", max_frames=3):
        policy.budget = 0.1 * (result.index + 1)
    assert policy.budget == pytest.approx(0.3)


def test_a_run_in_half_precision_leaves_the_weights_as_they_are(video: Path) -> None:
    shared = task(video)
    before = {name: value.clone() for name, value in shared.model.state_dict().items()}
    list(run(video, policies.TopR(3), shared, options=FRAME, device="cpu", dtype="bfloat16", max_frames=2))
    evaluate(_evaluation(video.parent, dtype="bfloat16"), shared)
    after = shared.model.state_dict()
    assert all(value.dtype == after[name].dtype and torch.equal(value, after[name]) for name, value in before.items())


def _evaluation(folder: Path, **settings: Any) -> EvaluateConfig:
    tiny = {"calibration_streams": 1, "calibration_frames": 3, "bootstrap": 2, "latency": False, "plots": False}
    return EvaluateConfig(budgets=[0.5], policies=["TopR"], out=str(folder / "out"), **tiny, **settings)
