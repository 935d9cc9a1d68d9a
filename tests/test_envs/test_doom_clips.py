"""Doom clips: determinism, splits, the box rule, the cache."""

import json
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from envs.doom import clips as clip_cache
from envs.doom import export
from envs.doom.labels import CLASS_MEMBERS, CLASS_NAMES, MIN_PIXELS, MIN_SIDE, visible_boxes
from envs.doom.player import Player
from envs.doom.scenes import SEED_RANGE, SPLITS
from envs.doom.task import DoomDetection
from envs.task import Clip
from eventful.errors import UserError


def label(name, value, x, y, width, height):
    return SimpleNamespace(object_name=name, value=value, x=x, y=y, width=width, height=height)


def painted(*rectangles):
    buffer = np.zeros((240, 320), np.uint8)
    for value, x, y, width, height in rectangles:
        buffer[y : y + height, x : x + width] = value
    return buffer


def test_the_splits_differ_in_seed_and_test_maps_differ_in_map():
    spans = sorted((split.first_seed, split.first_seed + split.size) for split in SPLITS.values())
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert all(split.size <= SEED_RANGE for split in SPLITS.values())
    seen = {scene.name for name in ("train", "val", "test", "detector") for scene in SPLITS[name].scenes}
    assert seen.isdisjoint(scene.name for scene in SPLITS["test_maps"].scenes)


def test_an_unknown_split_is_named_with_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"'holdout'.*train, val, test, test_maps"):
        clip_cache.load_split("holdout", folder=tmp_path)


def test_the_task_takes_sizes_of_splits_that_exist_only():
    with pytest.raises(ValueError, match=r"'test:48'.*train, val, test, test_maps"):
        DoomDetection(sizes={"test:48": None})


@pytest.mark.parametrize("wrong", [{"count": 0}, {"frames": 0}, {"step": -1}, {"workers": 0}])
def test_sizes_must_be_positive(tmp_path, wrong):
    with pytest.raises(ValueError, match="must be positive"):
        clip_cache.load_split("val", folder=tmp_path, **wrong)


def test_every_object_name_has_one_class():
    members = [member for group in CLASS_MEMBERS.values() for member in group]
    assert len(members) == len(set(members))


def test_a_box_bounds_the_visible_pixels():
    buffer = painted((7, 50, 60, 40, 30), (9, 50, 60, 10, 30))
    boxes, classes = visible_boxes([label("DoomImp", 7, 50, 60, 40, 30), label("Blood", 9, 50, 60, 10, 30)], buffer)
    np.testing.assert_array_equal(boxes, [[60, 60, 90, 90]])
    assert [CLASS_NAMES[k] for k in classes] == ["imp"]


def test_small_and_hidden_objects_are_dropped():
    side = MIN_SIDE
    buffer = painted((1, 0, 0, side - 1, 60), (2, 100, 0, side, 60), (3, 200, 0, 40, 40), (4, 201, 1, 39, 39))
    labels = [
        label("Medikit", 1, 0, 0, side - 1, 60),
        label("Medikit", 2, 100, 0, side, 60),
        label("Medikit", 3, 200, 0, 40, 40),
    ]
    boxes, _ = visible_boxes(labels, buffer)
    assert (buffer == 3).sum() < MIN_PIXELS
    np.testing.assert_array_equal(boxes, [[100, 0, 100 + side, 60]])


def test_no_objects_give_empty_arrays():
    boxes, classes = visible_boxes([], painted())
    assert boxes.shape == (0, 4) and classes.shape == (0,)


def test_a_standing_player_does_nothing():
    player = Player("stand", np.random.default_rng(0))
    assert all(player.act((0.0, 0.0), [100.0]) == [0.0] * 7 for _ in range(20))


def test_an_unknown_style_is_refused():
    with pytest.raises(ValueError, match=r"'fly'.*stand"):
        Player("fly", np.random.default_rng(0))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    pytest.importorskip("vizdoom")
    folder = tmp_path_factory.mktemp("clips")
    return folder, clip_cache.load_split("val", 3, frames=6, folder=folder)


def test_clips_have_frames_boxes_and_tags(recorded):
    _, clips = recorded
    assert len({clip.name for clip in clips}) == 3
    for clip in clips:
        assert clip.frames_THWC.shape == (6, 240, 320, 3) and clip.frames_THWC.dtype == torch.uint8
        assert len(clip.targets) == 6 and clip.fps == 17.5
        assert clip.tags["camera"] in ("standing", "moving") and clip.tags["map"] in clip.name
        for target in clip.targets:
            assert target["boxes"].shape == (len(target["labels"]), 4)
            size = target["boxes"][:, 2:] - target["boxes"][:, :2]
            assert (size >= MIN_SIDE).all() and (target["boxes"] >= 0).all()
    assert sum(len(target["labels"]) for clip in clips for target in clip.targets) > 0


def test_the_same_seed_gives_the_same_bytes_and_leaves_nothing_behind(recorded, tmp_path, monkeypatch):
    folder, _ = recorded
    monkeypatch.chdir(tmp_path)
    clip_cache.load_split("val", 3, frames=6, folder=tmp_path, workers=1)
    first, second = (next(place.rglob("manifest.json")).read_text() for place in (folder, tmp_path))
    assert first == second and len(json.loads(first)) == 3
    assert not (tmp_path / "_vizdoom").exists()


def test_a_damaged_clip_is_reported_and_recorded_anew(recorded, caplog):
    folder, clips = recorded
    path = next(folder.rglob(f"{clips[0].name}.safetensors"))
    good = path.read_bytes()
    path.unlink()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    clip_cache.load_split("val", 3, frames=6, folder=folder)
    assert "damaged" in caplog.text and path.name in caplog.text
    assert path.read_bytes() == good


def test_an_interrupted_recording_leaves_no_clip(recorded, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(clip_cache, "record", interrupt)
    with pytest.raises(KeyboardInterrupt):
        clip_cache.load_split("val", 1, frames=6, folder=tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_cached_clip_is_not_recorded_again(recorded, monkeypatch):
    folder, clips = recorded
    monkeypatch.setattr(clip_cache, "record", None)
    again = clip_cache.load_split("val", 3, frames=6, folder=folder)
    assert torch.equal(again[2].frames_THWC, clips[2].frames_THWC)


@pytest.mark.parametrize(("given", "last"), [([], 0), (["--clip", "2"], 2)])
def test_a_clip_is_exported_without_those_behind_it(tmp_path, monkeypatch, capsys, given, last):
    asked = []

    def clips(split, count, frames, step):
        asked.append(count)
        return [Clip(f"{split}-{k}", torch.full((frames, 16, 16, 3), k, dtype=torch.uint8)) for k in range(count)]

    monkeypatch.setattr(export, "load_split", clips)
    export._main(["--split", "test_maps", "--frames", "2", "--out", str(tmp_path / "clip.mp4"), *given])
    assert asked == [last + 1] and f"2 frames of test_maps-{last}" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--clip 16: split test_maps has clips 0 to 15"):
        export._main(["--split", "test_maps", "--clip", "16", "--out", str(tmp_path / "clip.mp4")])
