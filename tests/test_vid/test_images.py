"""Frames are decoded ahead, in bounded number; a damaged one is named after those before it."""

import gc
import weakref

import pytest
import torch
from PIL import Image

from envs.vid import images, read_official
from envs.vid.images import decoded
from eventful.errors import UserError, VideoError


class Counted:
    """Counts the images that are alive."""

    def __init__(self):
        self.alive, self.most, self.made = 0, 0, 0

    def __call__(self, path):
        image = torch.zeros(8, 8, 3, dtype=torch.uint8)
        self.alive += 1
        self.made += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(image, self.gone)
        return image

    def gone(self):
        self.alive -= 1


@pytest.mark.parametrize("ahead", [1, 6])
def test_a_long_clip_holds_a_bounded_number_of_frames(monkeypatch, ahead):
    counted = Counted()
    monkeypatch.setattr(images, "read_image", counted)
    seen = 0
    for image in decoded([None] * 2000, workers=2, ahead=ahead):
        seen += image.shape[0] == 8
    del image
    gc.collect()
    assert seen == 2000 and counted.alive == 0
    assert counted.most <= ahead + 2  # those that wait, and one that changes hands


def test_who_stops_looking_stops_the_decoding(monkeypatch):
    counted = Counted()
    monkeypatch.setattr(images, "read_image", counted)
    frames = decoded([None] * 2000, ahead=4)
    next(frames)
    frames.close()
    assert counted.made <= 6


def test_a_damaged_frame_is_named_after_those_before_it(official):
    sequence = read_official(official).sequences[0]
    path = sequence.frames[2].path
    path.write_bytes(path.read_bytes()[:400])
    frames = sequence.images()
    assert len([next(frames), next(frames)]) == 2
    with pytest.raises(VideoError, match=rf"frame {path} cannot be read"):
        next(frames)


def test_a_frame_of_another_size_is_named(official):
    sequence = read_official(official).sequences[0]
    Image.new("RGB", (16, 12)).save(sequence.frames[1].path, "JPEG")
    with pytest.raises(VideoError, match=r"000001\.JPEG is 16x12 \(width x height\), those before it are 32x24"):
        list(sequence.images())


def test_a_walk_shows_every_frame_of_every_sequence(official):
    split = read_official(official)
    seen = {sequence.name: len(list(frames)) for sequence, frames in split.walk()}
    assert seen == {sequence.name: len(sequence) for sequence in split.sequences}


def test_somebody_has_to_decode():
    with pytest.raises(UserError, match="workers and ahead must be at least 1"):
        decoded([], workers=0)
