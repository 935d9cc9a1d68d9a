"""Decoded footage on disk: made once, by footage and way of resizing; halves of it are cleared."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import timm
import torch
from footage import write_video

from envs.distill import Distillation
from eventful.errors import VideoError


def distillation(tmp_path: Path, video: Path) -> Distillation:
    model = timm.create_model("test_vit", img_size=(32, 48), num_classes=0)
    return Distillation(model, video, cache=tmp_path / "cache")


def test_footage_is_decoded_once_and_again_when_it_changes(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", 20)
    distillation(tmp_path, video).clips("train")
    stored = list((tmp_path / "cache").iterdir())
    distillation(tmp_path, video).clips("test")
    assert list((tmp_path / "cache").iterdir()) == stored and len(stored) == 1
    write_video(video, 30)
    assert [clip.name for clip in distillation(tmp_path, video).clips("test")] == ["a.mp4:21-29"]


def test_what_a_killed_process_left_is_cleared_and_what_another_is_writing_is_not(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    for name, days in (("dead.part", 2), ("alive.part", 0)):
        (tmp_path / "cache" / name).write_bytes(b"half")
        os.utime(tmp_path / "cache" / name, (time.time() - days * 86400,) * 2)
    distillation(tmp_path, write_video(tmp_path / "a.mp4", 20)).clips("train")
    assert [path.name for path in (tmp_path / "cache").glob("*.part")] == ["alive.part"]


def test_stored_footage_belongs_to_a_way_of_resizing(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", 10)

    def clips(interpolation: str, cache: str) -> torch.Tensor:
        model = timm.create_model("test_vit", img_size=(32, 48), num_classes=0)
        model.pretrained_cfg = {**model.pretrained_cfg, "interpolation": interpolation}
        return Distillation(model, video, cache=tmp_path / cache).clips("train")[0].frames_THWC

    first, second, alone = clips("bilinear", "both"), clips("bicubic", "both"), clips("bicubic", "one")
    assert torch.equal(second, alone) and not torch.equal(first, second)


def test_broken_footage_leaves_nothing_behind(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mkv", 60)
    data = video.read_bytes()
    video.write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match="cut off"):
        distillation(tmp_path, video).clips("train")
    assert not list((tmp_path / "cache").iterdir())
