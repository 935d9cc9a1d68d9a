"""`eventful-infer` end to end on a tiny model: outputs, budgets, partial results, and one line for each mistake."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from footage import moving_frames, write_video

import eventful.infer
import policies
from envs.distill import Distillation
from eventful.errors import UserError, VideoError
from eventful.trust import note_trained_here
from eventful.video.reader import FrameReader, read_frames
from eventful.video.runner import FrameResult


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("infer")


@pytest.fixture(scope="module")
def weights(folder: Path) -> Path:
    torch.manual_seed(0)
    path = folder / "tiny.safetensors"
    safetensors.torch.save_file(timm.create_model("test_vit", img_size=64).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def video(folder: Path) -> Path:
    return write_video(folder / "a.mp4", 12, fps=10)


@pytest.fixture(scope="module")
def checkpoint(folder: Path, weights: Path) -> Path:
    """An untrained policy with one decision per frame, as the trainer would save it."""
    task = {"name": "distill", "model": "test_vit", "weights": str(weights), "image_size": [64, 96]}
    policy = policies.LearnedPolicy(
        gates=1,
        dim=64,
        granularity="frame",
        select="top",
        provenance={"task": task, "options": {"granularity": "frame"}},
    )
    policy.save_pretrained(folder / "policy")
    return folder / "policy"


@pytest.fixture(autouse=True)
def trained_here(checkpoint: Path) -> None:
    note_trained_here(policies.load(checkpoint).provenance)


@pytest.fixture
def task() -> Distillation:
    torch.manual_seed(0)
    return Distillation(timm.create_model("test_vit", img_size=(64, 96), num_classes=0))


def command(argv: list[Any]) -> int:
    with pytest.raises(SystemExit) as caught:
        eventful.infer.main([str(a) for a in argv])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def failure(argv: list[Any], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which the command ends."""
    assert command(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("eventful-infer: error: ") and err.count("\n") == 1
    return err.removeprefix("eventful-infer: error: ").rstrip("\n")


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_checkpoint_on_a_video(
    tmp_path: Path, checkpoint: Path, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, lines = tmp_path / "out/o.mp4", tmp_path / "out/o.jsonl"
    argv = [video, "--policy", checkpoint, "--out", out, "--json", lines, "--dense-check", 5, "--device", "cpu"]
    assert command([*argv, "--budget", "0.2"]) == 0
    rows = records(lines)
    assert [row["frame"] for row in rows] == list(range(12))
    assert [row["flush"] for row in rows] == [True] + [False] * 11
    assert rows[1]["time"] == pytest.approx(0.1) and rows[1]["budget"] == 0.2
    assert all(0.1 < row["macs_ratio"] < 0.3 for row in rows[1:]) and rows[0]["macs_ratio"] == pytest.approx(1)
    assert [row["frame"] for row in rows if "dense" in row] == [0, 5, 10]
    assert rows[0]["dense"]["distance"] < 1e-5
    assert {"label", "score"} == set(rows[3]["predictions"][0])
    assert len(list(read_frames(out))) == 12
    printed = capsys.readouterr().out
    for part in ("12 frames, ", "frames/s", "of dense in steady state", "with flush", "distance", "latency", "memory"):
        assert part in printed


def test_budget_schedule(tmp_path: Path, checkpoint: Path, video: Path) -> None:
    lines = tmp_path / "o.jsonl"
    argv = [video, "--policy", checkpoint, "--json", lines, "--budget-schedule", "0:0.5,4:0.1", "--max-frames", 8]
    assert command(argv) == 0
    rows = records(lines)
    assert [row["budget"] for row in rows] == [0.5] * 4 + [0.1] * 4
    assert min(row["macs_ratio"] for row in rows[1:4]) > 0.4 > 0.2 > max(row["macs_ratio"] for row in rows[4:])


@pytest.mark.parametrize("granularity", ["gate", "frame"])
def test_heuristic_and_folder_of_images(
    granularity: str, tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    for k, frame in enumerate(moving_frames(4)):
        Image.fromarray(frame).save(tmp_path / f"{k}.png")
    argv = [tmp_path, "--heuristic", "top-r:5", "--task", "distill", "--model", "test_vit", "--weights", weights]
    assert command([*argv, "--size", "64x64", "--granularity", granularity, "--json", "-"]) == 0
    printed = capsys.readouterr()
    rows = [json.loads(line) for line in printed.out.splitlines()]
    assert [round(row["updated"] * 17) for row in rows] == [17, 5, 5, 5]
    assert "4 frames" in printed.err, "the summary leaves stdout to the JSON lines"


def test_json_on_stdout_is_nothing_but_json(checkpoint: Path, video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command([video, "--policy", checkpoint, "--json", "-", "--max-frames", 3]) == 0
    assert [json.loads(line)["frame"] for line in capsys.readouterr().out.splitlines()] == [0, 1, 2]


def test_a_video_that_breaks_keeps_the_results_before(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / "a.mkv", 60)
    data = video.read_bytes()
    video.write_bytes(data[: len(data) // 2])
    out, lines = tmp_path / "o.mp4", tmp_path / "o.jsonl"
    message = failure([video, "--policy", checkpoint, "--out", out, "--json", lines], capsys)
    count = len(records(lines))
    assert 0 < count < 60 and f"cut off after {count} frames" in message
    assert len(list(read_frames(out))) == count


def test_a_video_that_changes_its_size(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    for k, side in enumerate((64, 64, 80)):
        Image.fromarray(np.zeros((side, 64, 3), np.uint8)).save(tmp_path / f"{k}.png")
    message = failure([tmp_path, "--policy", checkpoint, "--json", tmp_path / "o.jsonl"], capsys)
    assert "2.png is 80x64" in message and len(records(tmp_path / "o.jsonl")) == 2


def test_python_interface(task: Distillation, video: Path) -> None:
    results = list(eventful.infer.run(video, policies.TopR(r=5), task=task, max_frames=4, device="cpu"))
    assert [r.flush for r in results] == [True, False, False, False]
    assert results[1].rate_RC.shape == (4, 6) and results[1].frame.shape == (96, 128, 3)
    assert 0 < results[1].rate_RC.mean() < 0.3 and results[0].rate_RC.min() == 1
    assert results[1].macs_ratio < 0.5 and results[1].budget is None


def test_a_scene_cut_is_reported_as_the_flush_that_it_is(task: Distillation) -> None:
    runner = eventful.infer.prepare(policies.TopR(r=1), task, options={"scene_cut": 0.9}, device="cpu")
    still, other = (np.random.default_rng(seed).integers(0, 255, (64, 96, 3), dtype=np.uint8) for seed in (0, 1))
    results = [runner.step(frame) for frame in (still, still, other, other)]
    assert [result.flush for result in results] == [True, False, True, False]
    assert [result.updated == 1 for result in results] == [True, False, True, False]
    assert results[2].macs_ratio == pytest.approx(1.0, abs=0.02) and results[2].rate_RC.min() == 1


def test_results_equal_the_model_called_by_hand(task: Distillation, video: Path) -> None:
    model = eventful.wrap(task.model, policy=policies.TopR(r=5))
    for result in eventful.infer.run(video, policies.TopR(r=5), task=task, max_frames=5, device="cpu"):
        with torch.inference_mode():
            expected = model(task.preprocess(torch.from_numpy(result.frame)[None]))
        assert torch.equal(result.outputs, expected)
        assert result.macs == float(model.macs.total[0])


class CountedFrames(FrameReader):
    """An endless video that knows which of its frames are still alive."""

    source, fps, count = "endless", 25.0, None

    def __init__(self) -> None:
        self.alive: list[weakref.ref[np.ndarray]] = []

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            frame = np.zeros((64, 96, 3), np.uint8)
            self.alive.append(weakref.ref(frame))
            yield frame


def test_memory_is_bounded(task: Distillation) -> None:
    frames = CountedFrames()
    runner = eventful.infer.prepare(policies.TopR(r=3), task, device="cpu")
    most = 0
    for result in eventful.infer.run_frames(frames, runner, max_frames=20):
        assert isinstance(result, FrameResult)
        most = max(most, sum(ref() is not None for ref in frames.alive))
    assert most <= 3


def test_mistakes_in_arguments(
    tmp_path: Path, checkpoint: Path, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = ["--policy", checkpoint]
    cases: list[tuple[list[Any], str]] = [
        ([tmp_path / "no.mp4", *known], "no.mp4 does not exist"),
        ([video], "one of the arguments --policy --heuristic is required"),
        ([video, *known, "--budget", "1.5"], "1.5 is no share of the dense MACs: it must be in (0, 1]"),
        ([video, *known, "--budget", "x"], "'x' is no number"),
        ([video, *known, "--budget-schedule", "0:0.3,x"], "is not of the form FRAME:SHARE,FRAME:SHARE"),
        ([video, *known, "--budget-schedule", "5:0.3,2:0.1"], "must ascend"),
        ([video, *known, "--weights", tmp_path / "no.pth"], "no.pth does not exist"),
        ([video, *known, "--device", "cuda:99"], "device=cuda:99: "),
        ([video, *known, "--size", "64"], "is not of the form HEIGHTxWIDTH"),
        ([video, *known, "--task", "dom"], "there is no task 'dom'; did you mean doom?"),
        ([video, *known, "--out", video], "is the video itself"),
        ([video, *known, "--out", tmp_path / "a.unknown"], "a.unknown cannot be written"),
        ([video, "--policy", tmp_path], f"{tmp_path} has no config.json"),
        ([video, "--heuristic", "top-r:40"], "does not say which task it was trained for: give --task NAME"),
        ([video, "--heuristic", "top-r:x"], "top-r:x"),
        ([video, "--heuristic", "threshold:nan", "--task", "distill"], "threshold:nan"),
        ([video, "--heuristic", "threshold:inf", "--task", "distill"], "threshold:inf"),
        ([video, "--heuristic", "top-r:-1", "--task", "distill"], "top-r:-1"),
        ([video, "--heuristic", "top"], "there is no heuristic 'top'; there are top-r:N"),
        ([video, "--heuristic", "all", "--task", "distill"], "task distill needs model"),
    ]
    for argv, message in cases:
        assert message in failure(argv, capsys)


def test_budget_for_a_policy_without_one(task: Distillation, video: Path) -> None:
    with pytest.raises(UserError, match="policy TopR has no budget to set"):
        next(eventful.infer.run(video, policies.TopR(r=5), task=task, budget=0.1))


@pytest.mark.parametrize("asked", [["--budget", 0.1], ["--budget-schedule", "0:0.3"], ["--fps", 20]])
def test_a_command_that_cannot_run_leaves_files_as_they_are(
    asked: list[Any], tmp_path: Path, weights: Path, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "old.jsonl"
    lines.write_text("old\n")
    argv = [video, "--heuristic", "top-r:5", "--task", "distill", "--model", "test_vit", "--weights", weights]
    said = failure([*argv, "--size", "64x64", "--json", lines, *asked], capsys)
    assert "policy TopR has no budget to set: leave out what sets it" in said and "windows" not in said
    assert lines.read_text() == "old\n"


def test_checkpoint_of_another_model(video: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = failure([video, "--policy", checkpoint, "--granularity", "gate"], capsys)
    assert message == (
        "policy: the policy is for 1 gates of width 64 (granularity 'frame'), "
        "the model has 18 gates of width 64 (granularity 'gate')"
    )


def test_checkpoint_whose_weights_have_moved(
    tmp_path: Path, video: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = policies.LearnedPolicy(
        gates=1, dim=64, provenance={"task": {"name": "distill", "model": "test_vit", "weights": "gone.pth"}}
    )
    policy.save_pretrained(tmp_path)
    note_trained_here(policy.provenance)
    argv = [video, "--policy", tmp_path, "--size", "64x64", "--granularity", "frame", "--max-frames", "2"]
    assert "gone.pth does not exist" in failure(argv, capsys)
    assert command([*argv, "--weights", weights]) == 0


def test_broken_video_in_python(tmp_path: Path, task: Distillation) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match=r"a\.mp4 cannot be opened"):
        eventful.infer.run(tmp_path / "a.mp4", policies.All(), task=task)


def test_as_a_module() -> None:
    argv = [sys.executable, "-m", "eventful.infer", "no.mp4", "--heuristic", "all"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "eventful-infer: error: video no.mp4 does not exist\n"
