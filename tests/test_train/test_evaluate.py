"""Evaluation end to end on a tiny task: matched budgets, batches, resume, tables, plots, errors."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from evaluation_tiny import checkpoint, config
from squares_task import Squares

from eventful.errors import UserError
from eventful.trust import note_trained_here
from policies import LearnedPolicy
from train import evaluate as command
from train.evaluate import evaluate
from train.evaluate_config import EvaluateConfig, completed
from train.evaluation.results_file import Key, Record
from train.evaluation.rollout import evaluate_policy


@pytest.fixture
def task() -> Squares:
    return Squares()


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]


def test_everything_end_to_end_with_labels(task: Squares, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    policies = [checkpoint(task, tmp_path / name / "policy", seed=seed) for seed, name in enumerate(("a", "b"))]
    names = [*EvaluateConfig().policies, "TopR@gate"]
    evaluate(config(tmp_path, policy=policies, policies=names, latency=True, latency_frames=2, plots=True), task)
    out = tmp_path / "out"
    with (out / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["policy"] for row in rows] == [
        "All",
        *[name for name in ("Learned", "LearnedTop", "CalibratedThreshold", "KeySimilarity", "TopR") for _ in range(2)],
        *[name for name in ("Random", "Periodic", "CalibratedThreshold+age", "Random+age") for _ in range(2)],
        *["TopR@gate"] * 2,
        "Nothing",
    ]
    assert {row["seeds"] for row in rows if row["policy"].startswith("Learned")} == {"2"}
    dense = rows[0]
    assert float(dense["agreement"]) == pytest.approx(1, abs=1e-4)
    assert float(dense["distance"]) < 1e-5
    for row in rows[1:-1]:
        assert 0 < float(row["share"]) < float(row["share_with_flush"]) <= 1.1
        assert float(row["agreement_low"]) <= float(row["agreement"]) <= float(row["agreement_high"])
    assert float(rows[1]["share_policy"]) > 0
    for name in ("table.md", "differences.md", "summary.md", "frontier.png"):
        assert (out / name).stat().st_size > 200
    printed = capsys.readouterr().out
    assert "global top-r is top-r" in printed and "no saliency, without which there is no saliency threshold" in printed
    assert str(out) in printed
    assert "win" in (out / "differences.md").read_text()


def test_label_free_task_and_gate_rates(tmp_path: Path):
    task = Squares(labelled=False)
    policy = checkpoint(task, tmp_path / "policy", "gate")
    names = ["Learned", "CalibratedThreshold", "GlobalTopR", "Threshold", "TopR"]
    comparison = evaluate(config(tmp_path, policy=policy, policies=names, plots=True), task)
    assert [m.id for m in comparison.measures] == ["distance", "worst"]
    assert (tmp_path / "out" / "rates.png").stat().st_size > 200
    for contender in comparison.lines:
        for point in comparison.points(contender):
            assert point.rates_G.shape == (6,)
            assert 0 < point.quality["distance"].value < comparison.end("Nothing").quality["distance"].value
    assert "mean distance of at most" in (tmp_path / "out" / "summary.md").read_text()


def test_realised_shares_meet_the_budgets(task: Squares, tmp_path: Path):
    names = ["CalibratedThreshold", "TopR", "Threshold", "GlobalTopR", "CalibratedThreshold@frame"]
    comparison = evaluate(config(tmp_path, policies=names, granularity="gate", calibration_frames=12), task)
    for contender in comparison.lines:
        # The feedback of the global rule is slow for clips of twelve frames.
        tolerance = 0.6 if contender.name == "GlobalTopR" else 0.3
        for point in comparison.points(contender):
            assert point.share.value == pytest.approx(point.budget, rel=tolerance), contender


def test_resume_after_a_kill(task: Squares, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    evaluate(config(tmp_path), task)
    path, complete = tmp_path / "out" / "results.jsonl", lines(tmp_path)
    kept = path.read_text().splitlines(keepends=True)
    path.write_text("".join(kept[:4]) + kept[4][:37])
    runs: list[Key] = []

    def watched(*args: Any, **kwargs: Any) -> Record:
        runs.append(args[3])
        return evaluate_policy(*args, **kwargs)

    monkeypatch.setattr(command, "evaluate_policy", watched)
    capsys.readouterr()
    evaluate(config(tmp_path), task)
    assert len(runs) == len(complete) - 4
    assert "going on from 3 finished runs" in capsys.readouterr().out
    for before, after in zip(complete, lines(tmp_path), strict=True):
        assert {**before, "seconds": 0} == {**after, "seconds": 0}
    runs.clear()
    evaluate(config(tmp_path, budgets=[0.2, 0.3, 0.5]), task)
    assert {key.budget for key in runs} == {0.3}


def test_another_setting_starts_anew_and_says_so(task: Squares, tmp_path: Path, capsys: Any):
    evaluate(config(tmp_path), task)
    evaluate(config(tmp_path, max_frames=6), task)
    assert "settings have changed (clips)" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("results-*.jsonl"))) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budgets": [0.1, 1.5]}, "budgets must be"),
        ({"policies": ["Topr"]}, "did you mean TopR"),
        ({"split": "tset"}, "there are train and test"),
        ({"policy": "nowhere/to/be/found"}, "no policy checkpoint"),
        ({"policy": 3}, "policy must be"),
        ({"device": "abacus"}, "device=abacus"),
        ({"max_frames": 1}, "max_frames must be at least 2"),
    ],
)
def test_bad_input_is_one_line(task: Squares, tmp_path: Path, changes: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        evaluate(config(tmp_path, **changes), task)


def test_a_checkpoint_of_another_model_is_named(task: Squares, tmp_path: Path):
    LearnedPolicy(1, 77, "frame").save_pretrained(tmp_path / "policy")
    with pytest.raises(UserError, match="width 77"):
        evaluate(config(tmp_path, policy=str(tmp_path / "policy"), policies=["LearnedTop"]), task)


def test_the_checkpoint_says_what_is_not_given(tmp_path: Path):
    trained = {"name": "distill", "video": "a.mp4", "test_frames": "5-9", "num_classes": 3}
    options = {"granularity": "gate", "attention": "recompute", "prefix": "ordinary"}
    policy = LearnedPolicy(3, 8, "gate", provenance={"task": trained, "options": options})
    note_trained_here(policy.provenance)
    found = completed(EvaluateConfig(video="b.mp4"), {"a": policy})
    assert (found.task, found.video, found.test_frames) == ("distill", "b.mp4", "5-9")
    assert (found.granularity, found.attention, found.task_options) == ("gate", "recompute", {"num_classes": 3})
    assert found.prefix == "ordinary"
    assert completed(EvaluateConfig(prefix="pinned"), {"a": policy}).prefix == "pinned"
    other = completed(EvaluateConfig(task="doom"), {"a": policy})
    assert (other.task, other.video, other.task_options) == ("doom", None, {})
    with pytest.raises(UserError, match="the checkpoint is for granularity 'gate'"):
        completed(EvaluateConfig(granularity="frame"), {"a": policy})
    alone = completed(EvaluateConfig(), {})
    assert (alone.task, alone.granularity, alone.attention, alone.prefix) == ("doom", "frame", "exact", "pinned")


def test_a_task_that_was_an_object_is_given_again(task: Squares, tmp_path: Path):
    policy = checkpoint(task, tmp_path / "policy")
    with pytest.raises(UserError, match=r"on task 'squares', which is not installed: give task=MODULE:CLASS .*itself"):
        evaluate(config(tmp_path, policy=policy, task=""))
    evaluate(config(tmp_path, policy=policy, task=""), task)
    with pytest.raises(UserError, match="video: options are for a task given by name"):
        evaluate(config(tmp_path, video="a.mp4"), task)


def test_options_of_the_model_that_no_policy_reads_are_refused(task: Squares, tmp_path: Path):
    with pytest.raises(UserError, match="attention=paper is read by policies at every gate only"):
        evaluate(config(tmp_path, attention="paper"), task)
    with pytest.raises(UserError, match="prefix=ordinary is read by policies at every gate only"):
        evaluate(config(tmp_path, prefix="ordinary"), task)
    with pytest.raises(UserError, match="motion_compensation is read by policies with one decision per frame only"):
        evaluate(config(tmp_path, granularity="gate", motion_compensation=True, policies=["TopR"]), task)


def test_the_command_ends_with_code_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("sys.argv", ["eventful-evaluate", "budgetz=[0.1]"])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code == 2
    assert "budgets" in capsys.readouterr().err
