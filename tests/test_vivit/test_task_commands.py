"""Policies for action recognition by the commands of all tasks, on videos in folders."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import eventful.infer
from envs.vivit import ViewPlan
from envs.vivit.task import ActionRecognition
from envs.vivit.weights import load_vivit
from eventful.tasks import check_options
from eventful.video.reader import read_frames
from policies import All
from train import evaluate, policy
from train.config import load_config
from train.task_config import task_options
from train.train_config import TrainConfig, check

ROOT = Path(__file__).parents[2]
NAMES = ["left", "right", "still"]
TRAIN = ["streams=2", "steps=1", "window=2", "segment=1", "hidden=8"]
TRAIN += ["calibration_streams=2", "calibration_frames=4", "policy_budgets=[0.5]", "budget_min=0.5", "budget_max=0.6"]
MEASURE = ["policies=[Learned,TopR]", "budgets=[0.5]", "bootstrap=5", "calibration_frames=4", "calibration_streams=2"]
MEASURE += ["plots=false", "latency=false"]


@pytest.mark.parametrize(
    "run",
    [
        ["estimator=gumbel", "warm_start=oracle", "oracle.frames=4"],
        ["estimator=reinforce", "warm_start=none", "reinforce.rollouts=2", "granularity=gate", "prefix=ordinary"],
    ],
    ids=["gumbel", "reinforce"],
)
def test_train_evaluate_and_infer(root, weights, tmp_path, run, capsys, write_video):
    shared = ["task=envs.vivit.task:ActionRecognition", f"weights={weights}", "task_options.stride=1"]
    shared += [f"task_options.root={root}", f"task_options.classes={json.dumps(NAMES)}"]
    policy._main([*shared, *run, *TRAIN, f"out={tmp_path}"])
    assert "objective: output 1" in capsys.readouterr().out
    evaluate._main([*shared, *MEASURE, f"policy={tmp_path / 'policy'}", f"out={tmp_path / 'evaluation'}"])
    table = (tmp_path / "evaluation/table.md").read_text()
    assert "top-1" in table
    setting = json.loads((tmp_path / "evaluation/results.jsonl").read_text().splitlines()[0])["setting"]
    ordinary = "prefix=ordinary" in run
    assert setting["prefix"] == ("ordinary" if ordinary else "pinned")
    # The folder of the clips may be gone by now: the names of the classes are in the checkpoint.
    options = {"weights": str(weights), "root": "gone", "classes": NAMES, "stride": 1}
    name = "envs.vivit.task:ActionRecognition"
    video = write_video(tmp_path / "video.mp4", 4, 3, frames=13)
    results = list(eventful.infer.run(video, tmp_path / "policy", name, options, budget=0.5))
    assert [result.time for result in results] == pytest.approx([0.2 * k for k in range(7)])
    assert results[0].flush and results[0].macs_ratio > 0.9 and all(r.macs_ratio < 0.9 for r in results[1:])
    assert all(result.frame.shape == (48, 48, 3) for result in results)
    assert all({p["label"] for p in result.predictions} == set(NAMES) for result in results)


def test_a_video_is_watched_over_time(weights, tmp_path, write_video, dense_logits):
    """After the steps of a view the dense model says live what it says of the view."""
    task = ActionRecognition(weights, stride=1, classes=NAMES)
    video = write_video(tmp_path / "video.mp4", 4, 3, frames=12)
    results = list(eventful.infer.run(video, All(), task))
    frames_TCHW = torch.from_numpy(np.stack(list(read_frames(video)))).movedim(-1, 1)
    for last in (3, 5):
        logits_VK = dense_logits(
            load_vivit(weights), frames_TCHW[2 * last - 6 : 2 * last + 2], ViewPlan(48, 1, 8, 1, 1)
        )
        best = results[last].predictions[0]
        assert best["label"] == NAMES[int(logits_VK.argmax())]
        assert best["score"] == pytest.approx(float(logits_VK.softmax(-1).max()), abs=1e-4)
    alone = task.predictions(results[0].outputs, (48, 64))[0]
    assert results[0].predictions == alone != results[5].predictions


@pytest.mark.parametrize("name", ["verbs", "epic_policy"])
def test_the_configs_are_for_this_task(name):
    config = load_config(TrainConfig, [str(ROOT / f"configs/{name}.yaml"), "weights=a", "task_options.root=b"])
    check(config)
    check_options("task actions", ActionRecognition, task_options(config))
    assert config.task == ActionRecognition.name and config.window < 8, "a view of 16 frames has 8 steps"
