"""Several policies on one video: each as if it were alone, side by side."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import timm
import torch
from footage import moving_frames, write_video
from PIL import Image

import eventful
import policies
from envs.distill import Distillation
from eventful.errors import UserError, VideoError
from eventful.infer import command, prepare, run_frames
from eventful.infer.compare import Comparison
from eventful.video import animation
from eventful.video.reader import read_frames
from eventful.video.runner import VideoRunner


@pytest.fixture(scope="module")
def runner() -> VideoRunner:
    torch.manual_seed(0)
    task = Distillation(timm.create_model("test_vit", img_size=(64, 64)))
    learned = policies.LearnedPolicy(1, 64, "frame", budgets=[0.2, 0.5], select="top")
    return prepare(learned, task, options={"granularity": "frame"}, device="cpu")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "a.mp4", 6, fps=10)


def test_each_does_what_it_would_do_alone(runner: VideoRunner, video: Path) -> None:
    comparison = Comparison(runner, ["dense", "top-r", "learned", "nothing"], 0.4, dense_every=1)
    seen = list(comparison.run(read_frames(video)))
    assert [list(results) for results in seen] == [["dense", "top-r", "learned", "nothing"]] * 6
    count = runner.model.layout(torch.zeros(1, 3, 64, 64)).count(0.4)
    rule = eventful.wrap(runner.model.vit, policies.TopR(count), granularity="frame")
    alone = list(run_frames(read_frames(video), VideoRunner(rule, runner.task)))
    for results, result in zip(seen, alone, strict=True):
        torch.testing.assert_close(results["top-r"].outputs, result.outputs)
        assert results["dense"].dense is not None and results["dense"].dense.distance < 1e-5
        assert results["top-r"].macs_ratio == pytest.approx(result.macs_ratio)
    assert comparison.courses["nothing"].shares[-1] < 0.05 < 0.3 < comparison.courses["learned"].shares[-1] < 0.6
    assert comparison.motion[0] == 0 and min(comparison.motion[1:]) > 0
    text = "\n".join(comparison.table())
    assert all(name in text for name in seen[0]) and "100.0%" in text


def test_before_the_first_frame_there_is_nothing_to_sum_up(runner: VideoRunner) -> None:
    assert Comparison(runner, ["dense", "learned"], 0.4).table() == ["no frames"]


def test_pictures(runner: VideoRunner, video: Path, tmp_path: Path) -> None:
    comparison = Comparison(runner, ["dense", "top-r", "periodic"], 0.4)
    assert comparison.heat_map() is None
    panels = [comparison.panels(results, ()) for results in comparison.run(read_frames(video), max_frames=3)]
    height, width = next(iter(moving_frames(1))).shape[:2]
    assert panels[0].shape[0] % (2 * height) == 0 and panels[0].shape[1] % (2 * width) == 0
    assert not panels[0][panels[0].shape[0] // 2 :, panels[0].shape[1] // 2 :].any(), "three policies, four places"
    heat = comparison.heat_map()
    assert heat is not None and heat.shape == panels[0].shape
    comparison.write_curve(tmp_path / "curve.png")
    assert Image.open(tmp_path / "curve.png").size == (1200, 600)


def test_a_comparison_runs_as_the_model_does(runner: VideoRunner, video: Path) -> None:
    model = eventful.wrap(runner.model.vit, policies.All(), "gate", "paper", "previous", on_resize="flush")
    comparison = Comparison(VideoRunner(model, runner.task), ["top-r"], 0.4)
    next(comparison.run(read_frames(video)))
    assert comparison._runners["top-r"].model.options == model.options


def test_an_animation_holds_so_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = np.zeros((8, 8, 3), np.uint8)
    monkeypatch.setattr(animation, "MOST_BYTES", 2 * frame.nbytes)
    with closing(animation.AnimationWriter(tmp_path / "a.WEBP", 10)) as writer:
        writer.write(frame)
        writer.write(frame + 200)
        with pytest.raises(VideoError, match=r"a\.WEBP can have no more than 2 frames"):
            writer.write(frame)
    with Image.open(tmp_path / "a.WEBP") as picture:
        assert picture.n_frames == 2


@pytest.mark.parametrize(
    ("names", "said"),
    [(["top-s"], "there is no 'top-s'; did you mean top-r"), ([], "at least one"), (["dense"] * 2, "different")],
)
def test_names_that_cannot_be(runner: VideoRunner, names: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Comparison(runner, names, 0.4)


def test_a_policy_without_a_budget_is_refused(runner: VideoRunner) -> None:
    rule = VideoRunner(eventful.wrap(runner.model.vit, policies.TopR(4), granularity="frame"), runner.task)
    with pytest.raises(UserError, match="TopR has no budget"):
        Comparison(rule, ["learned", "dense"], 0.4)


def test_the_command(runner: VideoRunner, video: Path, tmp_path: Path, capsys: Any) -> None:
    learned = runner.model.policy
    assert isinstance(learned, policies.LearnedPolicy)
    learned.provenance = policies.Provenance("distill", {"model": "test_vit"}, {"granularity": "frame"})
    learned.save_pretrained(tmp_path / "policy")
    torch.save(timm.create_model("test_vit", img_size=(64, 64)).state_dict(), tmp_path / "w.pth")
    argv = [
        video,
        "--policy",
        tmp_path / "policy",
        "--weights",
        tmp_path / "w.pth",
        "--size",
        "64x64",
        "--device",
        "cpu",
    ]

    def run(*more: object) -> object:
        with pytest.raises(SystemExit) as stop:
            command.main([str(word) for word in (*argv, "--device", "cpu", "--compare", "dense,learned", *more)])
        return stop.value.code

    out, lines = tmp_path / "compare.mp4", tmp_path / "lines.jsonl"
    assert run("--budget", 0.4, "--out", out, "--json", lines) == 0
    assert [json.loads(line)["policy"] for line in lines.read_text().splitlines()] == ["dense", "learned"] * 6
    with av.open(str(out)) as film:
        assert sum(1 for _ in film.decode(video=0)) == 6
    assert (tmp_path / "compare-updates.png").exists() and (tmp_path / "compare-motion.png").exists()
    assert "learned" in capsys.readouterr().out
    assert run("--budget", 0.4, "--out", tmp_path / "a.webp", "--max-frames", 3) == 0
    with Image.open(tmp_path / "a.webp") as animation:
        assert (animation.format, animation.n_frames) == ("WEBP", 3)
        animation.load()
        assert animation.info["duration"] == 100, "milliseconds of a frame at 10 frames a second"
    assert run("--budget", 0.4, "--out", tmp_path / "b.mp4", "--json", tmp_path / "b-motion.png") == 2
    assert "b-motion.png is a picture that --compare writes" in capsys.readouterr().err
    assert run("--fps", 10) == 2 and "--compare needs one budget" in capsys.readouterr().err
    assert run("--budget", 0.4, "--compare", "saliency") == 2
    assert "the policy weighs errors by saliency" in capsys.readouterr().err
