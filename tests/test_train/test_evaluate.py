"""Evaluation end to end on a tiny task: matched budgets, batches, resume, tables, plots, errors."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import eventful
from envs.task import Clip, freeze
from eventful.errors import UserError
from policies import All, LearnedPolicy, Nothing, Periodic, Threshold, TopR
from train import evaluate as command
from train.evaluate import evaluate
from train.evaluate_config import EvaluateConfig, completed
from train.evaluation.bootstrap import resample_clips
from train.evaluation.contenders import PolicyMaker, digest, drop_twins, parse_contenders, solve_threshold
from train.evaluation.latency import measure_latency
from train.evaluation.plots import spread
from train.evaluation.results_file import Key, Latency, Record, ResultsFile
from train.evaluation.rollout import Footage, batch_clips, evaluate_policy, selected

CPU = torch.device("cpu")


class Agreement:
    """Minus the mean absolute output, over the frames of the given clips."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def update(self, clip: str, outputs: Tensor, targets: Sequence[Any]) -> None:
        assert len(outputs) == len(targets) == 1
        error = (outputs - targets[0]["expected"]).abs().mean()
        self.values.setdefault(clip, []).append(1 - float(error))

    def compute(self, clips: Sequence[str] | None = None) -> float:
        return float(np.mean([v for clip in clips or self.values for v in self.values[clip]]))


class Squares:
    """Bright squares that move over noise; the labels are the dense model's own outputs."""

    name, metric_name, class_names = "squares", "agreement", ()

    def __init__(self, labelled: bool = True, frames: int = 12) -> None:
        self.has_labels = labelled
        torch.manual_seed(0)
        vit = VisionTransformer(
            img_size=48,
            patch_size=8,
            embed_dim=32,
            depth=2,
            num_heads=2,
            num_classes=5,
            class_token=False,
            global_pool="",
        )
        torch.nn.init.normal_(vit.head.weight)
        self.model = freeze(vit)
        self.frames = frames

    def clips(self, split: str) -> list[Clip]:
        if split not in ("train", "test"):
            raise ValueError(f"no split {split!r}; there are train and test")
        return [self._clip(split, k) for k in range(4)]

    def _clip(self, split: str, k: int) -> Clip:
        generator = torch.Generator().manual_seed(k + 10 * (split == "train"))
        frames = self.frames - (k == 3)
        frames_THWC = torch.randint(0, 90, (48, 48, 3), generator=generator).repeat(frames, 1, 1, 1)
        frames_THWC += torch.randint(0, 40, frames_THWC.shape, generator=generator)
        for t in range(frames):
            x, y = (5 + (3 + k) * t) % 38, (7 + 2 * t) % 38
            frames_THWC[t, y : y + 10, x : x + 10] = 250
        frames_THWC = frames_THWC.to(torch.uint8)
        with torch.no_grad():
            expected = self.model(self.preprocess(frames_THWC))
        targets = [{"expected": row} for row in expected] if self.has_labels else ()
        return Clip(f"{split}-{k}", frames_THWC, targets)

    def preprocess(self, frames_BHWC: Tensor) -> Tensor:
        return frames_BHWC.permute(0, 3, 1, 2).float() / 128 - 1

    def metric(self) -> Agreement | None:
        return Agreement() if self.has_labels else None


@pytest.fixture
def task() -> Squares:
    return Squares()


def checkpoint(task: Squares, folder: Path, granularity: str = "frame", seed: int = 0) -> str:
    """An untrained policy with a little noise in its last layer."""
    model = eventful.wrap(task.model, All(), granularity=granularity)
    layout = model.layout(task.preprocess(task.clips("test")[0].frames_THWC[:1]))
    policy = LearnedPolicy(layout.gates, layout.dim, granularity, provenance={"task": {"name": "squares"}})
    torch.nn.init.normal_(policy.out.weight, std=0.01, generator=torch.Generator().manual_seed(seed))
    policy.table.log_threshold_KG.copy_(-policy.table.log_budget_K[:, None].expand(-1, layout.gates) - 1.5)
    policy.save_pretrained(folder)
    return str(folder)


def config(tmp_path: Path, **changes: Any) -> EvaluateConfig:
    settings: dict[str, Any] = {
        "task": "squares",
        "out": str(tmp_path / "out"),
        "budgets": [0.2, 0.5],
        "policies": ["TopR", "Periodic"],
        "bootstrap": 20,
        "calibration_streams": 3,
        "calibration_frames": 8,
        "latency": False,
        "plots": False,
    }
    return EvaluateConfig(**(settings | changes))


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]


def footage(task: Squares, streams: int = 4, **options: Any) -> Footage:
    return Footage(task, task.clips("test"), streams, CPU, torch.float32, **options)


def run(task: Squares, policy: Any, streams: int = 4, granularity: str = "frame", **options: Any) -> Record:
    model = eventful.wrap(task.model, All(), granularity=granularity)
    return evaluate_policy(model, policy, footage(task, streams, **options), Key("x"), resample_clips(4, 10, 0))


def test_everything_end_to_end_with_labels(task: Squares, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    policies = [checkpoint(task, tmp_path / name / "policy", seed=seed) for seed, name in enumerate(("a", "b"))]
    names = [*EvaluateConfig().policies, "TopR@gate"]
    evaluate(config(tmp_path, policy=policies, policies=names, latency=True, latency_frames=2, plots=True), task)
    out = tmp_path / "out"
    with (out / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["policy"] for row in rows] == [
        "All",
        *[name for name in ("Learned", "LearnedTop", "CalibratedThreshold", "TopR") for _ in range(2)],
        *[name for name in ("Random", "Periodic", "TopR@gate") for _ in range(2)],
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
    assert "global top-r is top-r" in printed and str(out) in printed
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


def test_a_batch_equals_singles(task: Squares):
    for granularity in ("frame", "gate"):
        for policy in (TopR(9), Threshold(0.7), Periodic(3)):
            single, batch = (run(task, policy, streams, granularity) for streams in (1, 4))
            for name in ("share_U", "share_flush_U", "overall_U", "age_max_U", "rates_G"):
                assert getattr(single, name) == pytest.approx(getattr(batch, name), abs=1e-9), name
            for name in ("distance_U", "worst_U", "metric_R"):
                assert getattr(single, name) == pytest.approx(getattr(batch, name), abs=1e-5), name


def test_ages_rates_and_shares_of_known_policies(task: Squares):
    nothing, everything, periodic = (run(task, policy) for policy in (Nothing(), All(), Periodic(4)))
    assert nothing.age_max_U == [11, 11, 11, 10] and nothing.rates_G == [0.0]
    assert everything.age_max_U == [0] * 4 and everything.rates_G == [1.0]
    assert everything.share_U[0] == pytest.approx(1, abs=0.05)
    # Frames 4 and 8 of 1 to 11, and of 1 to 10.
    assert periodic.rates_G[0] == pytest.approx((3 * 2 + 2) / (3 * 11 + 10))
    assert periodic.age_max_U == [3] * 4
    assert nothing.share_flush_U[0] == pytest.approx((nothing.share_U[0] * 11 + 1) / 12, rel=1e-6)


def test_a_small_cache_changes_nothing(task: Squares):
    assert run(task, TopR(5), cache_bytes=0).distance_U == run(task, TopR(5)).distance_U


def test_selected_reads_the_state(task: Squares):
    model = eventful.wrap(task.model, TopR(4), granularity="gate")
    frame = task.preprocess(task.clips("test")[0].frames_THWC[:2])
    model(frame)
    model(frame + 0.1 * torch.randn_like(frame))
    rates_BG, age_max_B = selected(model.state)
    assert rates_BG.shape == (2, 6) and torch.allclose(rates_BG, torch.tensor(4 / 36).double())
    assert age_max_B.tolist() == [1, 1]


def test_groups_have_one_shape_and_all_clips(task: Squares):
    groups = batch_clips(task.clips("test"), streams=2)
    assert sorted(len(group.clips) for group in groups) == [1, 1, 2]
    assert {clip.name for group in groups for clip in group.clips} == {f"test-{k}" for k in range(4)}


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


def test_results_survive_the_file(tmp_path: Path):
    record = Record(Key("TopR", 0.1, "3"), "r=3", ["a"], [3], [0.1], [0.2], [0.1], [0.0], [0.1], [0.2], [5], [0.1])
    record.metric_R = [0.5, math.nan]
    latency = Latency(Key("TopR", 0.1), 5, (1.0, 2.0, 3.0), (1.0, 1.0, 1.0), (1.0, 2.0, 3.0))
    first = ResultsFile(tmp_path / "results.jsonl", {"a": 1})
    first.add(record)
    first.add(latency)
    again = ResultsFile(tmp_path / "results.jsonl", {"a": 1})
    assert repr(again.records) == repr({record.key: record})
    assert again.latencies == {latency.key: latency}
    (tmp_path / "results.jsonl").write_text("no json\n")
    with pytest.raises(UserError, match="damaged"):
        ResultsFile(tmp_path / "results.jsonl", {"a": 1})


def test_latency_is_measured_on_short_clips(task: Squares):
    model = eventful.wrap(task.model, All(), granularity="frame")
    found = measure_latency(task, model, TopR(3), task.clips("test"), 40, Key("TopR", 0.1))
    assert found.frames == 40 and 0 < found.speedup[0] <= found.speedup[1] <= found.speedup[2]


def test_contenders_are_parsed():
    found = parse_contenders(["TopR", "TopR@gate", "All"], "frame")
    assert [c.id for c in found] == ["TopR", "TopR@gate", "All"]
    assert [c.label for c in found] == ["top-r", "top-r, per gate", "all (dense)"]
    with pytest.raises(UserError, match="did you mean TopR"):
        parse_contenders(["TopK"], "frame")
    with pytest.raises(UserError, match="twice"):
        parse_contenders(["TopR", "TopR@frame"], "frame")
    kept, notes = drop_twins(parse_contenders(["TopR", "GlobalTopR", "GlobalTopR@gate"], "frame"))
    assert [c.id for c in kept] == ["TopR", "GlobalTopR@gate"] and len(notes) == 1


def test_threshold_search_finds_the_budget_or_says_the_least():
    found = solve_threshold(lambda x: math.exp(-2 * x), 0.1, start=-3.0)
    assert math.exp(-2 * found) == pytest.approx(0.1, rel=0.02)
    still = solve_threshold(lambda x: 0.01, 0.5, start=0.0)
    assert still < -5


def test_keys_have_a_run_for_each_seed():
    maker = PolicyMaker({}, list, [0.5, 0.1], {})
    random, topr = parse_contenders(["Random", "TopR"], "frame")
    assert [key.budget for key in maker.keys(topr, [0, 1])] == [0.1, 0.5]
    assert [(key.budget, key.seed) for key in maker.keys(random, [0, 1])][:2] == [(0.1, "0"), (0.1, "1")]


def test_digest_follows_the_weights(task: Squares):
    before = digest(task.model)
    assert before == digest(task.model)
    with torch.no_grad():
        task.model.head.bias[0] += 1
    assert digest(task.model) != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budgets": [0.1, 1.5]}, "budgets must be shares"),
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
    options = {"granularity": "gate", "attention": "recompute"}
    policy = LearnedPolicy(3, 8, "gate", provenance={"task": trained, "options": options})
    found = completed(EvaluateConfig(video="b.mp4"), {"a": policy})
    assert (found.task, found.video, found.test_frames) == ("distill", "b.mp4", "5-9")
    assert (found.granularity, found.attention, found.task_options) == ("gate", "recompute", {"num_classes": 3})
    other = completed(EvaluateConfig(task="doom"), {"a": policy})
    assert (other.task, other.video, other.task_options) == ("doom", None, {})
    with pytest.raises(UserError, match="the checkpoint is for granularity 'gate'"):
        completed(EvaluateConfig(granularity="frame"), {"a": policy})
    alone = completed(EvaluateConfig(), {})
    assert (alone.task, alone.granularity, alone.attention) == ("doom", "frame", "exact")


def test_a_task_that_was_an_object_is_given_again(task: Squares, tmp_path: Path):
    policy = checkpoint(task, tmp_path / "policy")
    with pytest.raises(UserError, match=r"on task 'squares', which is not installed: give task=MODULE:CLASS .*itself"):
        evaluate(config(tmp_path, policy=policy, task=""))
    evaluate(config(tmp_path, policy=policy, task=""), task)
    with pytest.raises(UserError, match="video: options are for a task given by name"):
        evaluate(config(tmp_path, video="a.mp4"), task)


def test_attention_that_no_policy_reads_is_refused(task: Squares, tmp_path: Path):
    with pytest.raises(UserError, match="attention=paper is read by policies at every gate only"):
        evaluate(config(tmp_path, attention="paper"), task)


def test_the_command_ends_with_code_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("sys.argv", ["eventful-evaluate", "budgetz=[0.1]"])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code == 2
    assert "budgets" in capsys.readouterr().err


def test_labels_are_moved_apart_in_order():
    placed = spread([10.0, 11.0, 50.0, 49.0], gap=5.0, low=0.0, high=52.0)
    assert placed[1] - placed[0] >= 5 and placed[2] - placed[3] >= 5
    assert all(0 <= place <= 52 for place in placed)
