"""Clips that are written in ImageNet VID's layout are read back as they were, Doom's among them."""

import pytest
import torch

from envs.doom import export
from envs.doom.clips import load_split
from envs.task import Clip
from envs.vid import ClassList, read_official
from envs.vid.write import write_official
from eventful.errors import UserError

CLASSES = ClassList(("cat", "dog"))


def clip(name, count=3):
    frames = torch.full((count, 24, 32, 3), 90, dtype=torch.uint8)
    targets = [
        {"boxes": torch.tensor([[2.0, 3, 20, 13]] * t).reshape(-1, 4), "labels": torch.arange(t)} for t in range(count)
    ]
    return Clip(name, frames, targets)


def same(target, expected):
    return all(torch.equal(target[key], expected[key]) for key in ("boxes", "labels"))


def test_what_was_written_is_read_back(tmp_path):
    clips = [clip("b"), clip("a")]
    assert write_official(tmp_path, "train", clips, CLASSES) == 6
    split = read_official(tmp_path, "train", classes=CLASSES)
    assert [sequence.name for sequence in split.sequences] == ["a:0-2", "b:0-2"]
    for sequence in split.sequences:
        assert all(map(same, sequence.targets, clips[0].targets))
        assert all((image == 90).all() for image in sequence.images())


def test_a_split_is_not_written_over(tmp_path):
    write_official(tmp_path, "val", [clip("a")], CLASSES)
    with pytest.raises(UserError, match=r"val\.txt exists"):
        write_official(tmp_path, "val", [clip("b")], CLASSES)


def test_clips_need_boxes(tmp_path):
    with pytest.raises(UserError, match="clip a has 3 frames and 0 targets"):
        write_official(tmp_path, "val", [Clip("a", clip("a").frames_THWC)], CLASSES)
    assert not (tmp_path / "ImageSets").exists()


def test_doom_clips_run_through_the_reader_of_vid(tmp_path, monkeypatch, capsys):
    pytest.importorskip("vizdoom")
    monkeypatch.setenv("EVENTFUL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SystemExit) as end:
        length = ["--count", "1", "--frames", "6", "--step", "4"]
        export.main(["--format", "vid", "--split", "val", *length, "--out", str(tmp_path / "vid")])
    assert end.value.code == 0 and "6 frames of 1 clips" in capsys.readouterr().out
    (recorded,) = load_split("val", 1, 6, 4)
    (sequence,) = read_official(tmp_path / "vid", "val", classes=export.CLASSES).sequences
    assert sequence.clip == recorded.name and all(map(same, sequence.targets, recorded.targets))
    pixels = torch.stack(list(sequence.images()))
    assert (pixels.float() - recorded.frames_THWC.float()).abs().mean() < 3  # what JPEG leaves out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--format", "vid", "--clip", "1"], "--clip has no meaning with --format vid"),
        (["--count", "1"], "--count has no meaning with --format video"),
        (["--format", "vid", "--count", "0"], "must be positive"),
        (["--frames", "0"], "must be positive"),
        (["--split", "none"], "no split 'none'"),
    ],
)
def test_wrong_arguments_end_with_one_line(tmp_path, capsys, arguments, said):
    with pytest.raises(SystemExit) as end:
        export.main([*arguments, "--out", str(tmp_path / "out")])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
