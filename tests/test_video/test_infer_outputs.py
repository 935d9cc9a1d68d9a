"""What `eventful-infer` writes: times, sound, and numbers that JSON has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from footage import moving_frames, write_video

import eventful.infer
from envs.distill import Distillation
from eventful.video import read_frames


def infer(folder: Path, video: Path, *argv: Any, nan: bool = False) -> None:
    torch.manual_seed(0)
    state = timm.create_model("test_vit", img_size=64).state_dict()
    if nan:
        state["head.weight"][:] = float("nan")
    safetensors.torch.save_file(state, folder / "w.safetensors")
    options = ["--heuristic", "all", "--task", "distill", "--model", "test_vit", "--weights", folder / "w.safetensors"]
    with pytest.raises(SystemExit) as caught:
        eventful.infer.main([str(a) for a in (video, *options, "--size", "64x64", "--device", "cpu", *argv)])
    assert caught.value.code == 0


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_uneven(path: Path, turned: bool = False, times: Sequence[int] = (500, 600, 900, 1000)) -> Path:
    """Frames at these milliseconds with half a second of silence beside them."""
    with av.open(str(path), "w") as container:
        film, track = container.add_stream("libx264", rate=10), container.add_stream("flac", rate=8000)
        film.height, film.width = 96, 128
        film.codec_context.time_base = Fraction(1, 1000)
        if turned:
            film.set_display_rotation(90)
        for frame, ms in zip(moving_frames(len(times)), times, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = ms, Fraction(1, 1000)
            container.mux(film.encode(picture))
        container.mux(film.encode())
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 4096), np.int16), "s16", "stereo")
        silence.sample_rate, silence.pts, silence.time_base = 8000, 4000, Fraction(1, 8000)
        container.mux(track.encode(silence))
        container.mux(track.encode())
    return path


def test_scores_that_are_not_finite_are_null(tmp_path: Path) -> None:
    video, lines = write_video(tmp_path / "a.mp4", 2), tmp_path / "o.jsonl"
    infer(tmp_path, video, "--json", lines, nan=True)
    assert "NaN" not in lines.read_text()
    assert [found["score"] for row in records(lines) for found in row["predictions"]] == [None] * 10


def test_times_and_sound_of_the_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, lines = write_uneven(tmp_path / "a.mkv"), tmp_path / "o.jsonl"
    infer(tmp_path, source, "--json", lines, "--out", tmp_path / "o.mp4")
    assert [row["time"] for row in records(lines)] == pytest.approx([0, 0.1, 0.4, 0.5])
    assert [time for _, time in read_frames(tmp_path / "o.mp4").timed()] == pytest.approx([0, 0.1, 0.4, 0.5])
    with av.open(str(tmp_path / "o.mp4")) as container:
        assert len(container.streams.audio) == 1
    assert "sound" not in capsys.readouterr().out
    infer(tmp_path, source, "--out", tmp_path / "o.ts")
    assert f"{tmp_path / 'o.ts'} lacks sound: 'mpegts' format does not support 'flac'" in capsys.readouterr().out


@pytest.mark.parametrize("turned", [False, True])
def test_training_reads_the_frames_that_inference_reads(turned: bool, tmp_path: Path) -> None:
    source = write_uneven(tmp_path / "a.mkv", turned, times=(500, 600, 900, 1000, 1200, 1300))
    model = timm.create_model("test_vit", img_size=(128, 96) if turned else (96, 128), num_classes=0)
    task = Distillation(model, source, train_frames="0-3", test_frames="4-5", cache=tmp_path / "cache")
    clips = [clip.frames_THWC for split in ("train", "val", "test") for clip in task.clips(split)]
    np.testing.assert_array_equal(torch.cat(clips).numpy(), np.stack(list(read_frames(source))))


@pytest.mark.parametrize("name", ["a.gif", "a.png"])
def test_footage_that_is_an_animation(name: str, tmp_path: Path) -> None:
    from PIL import Image

    first, *others = (Image.fromarray(frame) for frame in moving_frames(8))
    first.save(tmp_path / name, save_all=True, append_images=others)
    model = timm.create_model("test_vit", img_size=(96, 128), num_classes=0)
    for k, video in enumerate((tmp_path / name, tmp_path)):
        clips = Distillation(model, video, cache=tmp_path / f"cache{k}", train_frames="0-3").clips("test")
        np.testing.assert_array_equal(clips[0].frames_THWC.numpy(), np.stack(list(read_frames(video)))[4:])


def mistake(capsys: pytest.CaptureFixture[str], *argv: Any) -> str:
    with pytest.raises(SystemExit) as caught:
        eventful.infer.main([str(a) for a in argv])
    err = capsys.readouterr().err
    assert caught.value.code == 2 and err.count("\n") == 1
    return err


def test_outputs_are_files_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = write_video(tmp_path / "a.mp4", 2)
    (tmp_path / "soft.mp4").symlink_to(video)
    (tmp_path / "hard.mp4").hardlink_to(video)
    (tmp_path / "later.mp4").symlink_to(tmp_path / "new.mp4")
    (tmp_path / "w.pth").touch()
    known = (video, "--heuristic", "all", "--task", "distill", "--model", "test_vit", "--weights", tmp_path / "w.pth")
    for name in ("a.mp4", "soft.mp4", "hard.mp4", "../" + tmp_path.name + "/a.mp4"):
        for option in ("--out", "--json"):
            assert "is the video itself" in mistake(capsys, *known, option, tmp_path / name)
    assert "is the weights of the model" in mistake(capsys, *known, "--json", tmp_path / "w.pth")
    both = ("--out", tmp_path / "new.mp4", "--json", tmp_path / "later.mp4")
    assert "--out and --json are one file" in mistake(capsys, *known, *both)
    frames = tmp_path / "frames"
    frames.mkdir()
    write_video(tmp_path / "b.mp4", 1).rename(frames / "0.png")
    assert "is a frame of the video" in mistake(capsys, frames, *known[1:], "--json", frames / "0.png")
    assert video.stat().st_size > 1000


def test_a_full_disk_ends_the_run_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = write_video(tmp_path / "a.mp4", 5)
    infer(tmp_path, video)
    capsys.readouterr()
    known = ("--heuristic", "all", "--task", "distill", "--model", "test_vit", "--weights", tmp_path / "w.safetensors")
    argv = (video, *known, "--size", "64x64", "--device", "cpu", "--json", "/dev/full")
    assert mistake(capsys, *argv) == "eventful-infer: error: /dev/full cannot be written: No space left on device\n"
