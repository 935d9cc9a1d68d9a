"""Clips of verbs: balanced, split by map and seed, determined by the seed, and what they say they are."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from envs.actions import ClassFolders
from envs.doom import export_verbs, verbs
from envs.doom.scenes import SPLITS
from envs.doom.verbs import VERBS, record_verb, verb_clips

FRAMES = 8


def test_clips_are_balanced_and_split_by_map_and_seed():
    splits = {split: verb_clips(split, 96) for split in ("train", "val", "test", "test_maps")}
    for clips in splits.values():
        assert set(Counter(clip.verb for clip in clips).values()) == {12}
        assert len({clip.name for clip in clips}) == 96
        by_map = Counter((clip.scene.name, clip.verb) for clip in clips)
        assert max(by_map.values()) - min(by_map.values()) <= 1
    seeds = [clip.seed for clips in splits.values() for clip in clips]
    taken = {split.first_seed + k for split in SPLITS.values() for k in range(split.size)}
    assert len(set(seeds)) == len(seeds) and taken.isdisjoint(seeds)
    assert {clip.scene for clip in splits["train"]}.isdisjoint(clip.scene for clip in splits["test_maps"])


def test_more_clips_begin_with_the_same():
    assert verb_clips("val", 20)[:8] == verb_clips("val", 8)


@pytest.mark.parametrize(("split", "count", "said"), [("none", 8, "no split 'none'"), ("val", 0, "count must be 1 to")])
def test_clips_that_there_are_not(split, count, said):
    with pytest.raises(ValueError, match=said):
        verb_clips(split, count)


@pytest.fixture(scope="module")
def recorded():
    pytest.importorskip("vizdoom")
    return {clip.verb: (clip, record_verb(clip, FRAMES)) for clip in verb_clips("train", len(VERBS))}


def test_each_verb_looks_like_itself(recorded):
    assert set(recorded) == set(VERBS)
    change = {}
    for verb, (_, frames) in recorded.items():
        assert frames.shape == (FRAMES, 240, 320, 3) and frames.dtype == np.uint8
        change[verb] = np.abs(np.diff(frames.astype(int), axis=0)).mean()
    assert all(change["idle"] < change[verb] for verb in VERBS if verb not in ("idle", "shoot"))
    for verb, sign in (("turn_left", 1), ("turn_right", -1)):
        assert sign * shift(recorded[verb][1]) > 3


def shift(frames):
    """Columns by which the upper half of the picture moves from frame to frame: to the right when turning left."""
    grey = frames[:, 40:110].mean((1, 3))
    centred = grey - grey.mean(1, keepdims=True)
    moves = range(-60, 61)
    scores = [sum((np.roll(a, move) * b)[60:-60].sum() for a, b in pairwise(centred)) for move in moves]
    return moves[int(np.argmax(scores))]


def test_the_same_seed_gives_the_same_bytes(recorded):
    clip, frames = recorded["strafe_left"]
    assert np.array_equal(record_verb(clip, FRAMES), frames)


def test_what_cannot_be_seen_is_said(monkeypatch):
    monkeypatch.setattr(verbs, "_attempt", lambda *arguments: None)
    with pytest.raises(RuntimeError, match="idle could be seen in none of"):
        record_verb(verb_clips("val", 1)[0])


def test_files_are_read_as_a_folder_of_classes(tmp_path, monkeypatch, capsys):
    grey = np.full((FRAMES, 240, 320, 3), 90, np.uint8)
    seen = []
    monkeypatch.setattr(export_verbs, "record_verb", lambda clip, *rest: seen.append(clip.name) or grey)
    arguments = ["--split", "val", "--count", "16", "--frames", str(FRAMES), "--out", str(tmp_path)]
    for said in ("16 clips recorded, 0 were there", "0 clips recorded, 16 were there"):
        with pytest.raises(SystemExit) as end:
            export_verbs.main(arguments)
        assert end.value.code == 0 and said in capsys.readouterr().out
    found = ClassFolders(tmp_path)
    assert found.classes == sorted(VERBS) and len(seen) == 16
    clips = found.videos("val")
    assert set(Counter(clip.label for clip in clips).values()) == {2}
    pixels = clips[0].frames()[torch.arange(FRAMES)]
    assert clips[0].num_frames == FRAMES and (pixels.float() - 90).abs().max() < 4


def test_an_interrupted_recording_leaves_no_clip(tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(export_verbs, "record_verb", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_verbs.write_clips(tmp_path, verb_clips("val", 2))
    assert not list(tmp_path.rglob("*.mp4"))


def test_wrong_arguments_end_with_one_line(tmp_path, capsys):
    for wrong, said in ((["--split", "none"], "no split 'none'"), (["--frames", "0"], "must be positive")):
        with pytest.raises(SystemExit) as end:
            export_verbs.main([*wrong, "--out", str(tmp_path)])
        error = capsys.readouterr().err
        assert end.value.code == 2 and said in error and error.count("\n") == 1
