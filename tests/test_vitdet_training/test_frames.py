"""Random views on the canvas: boxes stay on their objects, and a seed gives the same views."""

from pathlib import Path

import pytest
import torch
from vitdet_tiny import CLASSES, squares

from envs.vid.labelled import LabelledVideos, class_list
from envs.vitdet.canvas import STD, Canvas
from train.vitdet.frames import RandomFrames


@pytest.fixture
def frames(root):
    split = LabelledVideos(Path(root), "official", class_list(CLASSES)).split("train")
    listed = [frame for sequence in split.sequences for frame in sequence.frames]
    return RandomFrames(listed, len(CLASSES), Canvas(96), (0.8, 2.0))


def test_boxes_stay_on_their_objects(frames):
    clip, generator = squares("a", 0), torch.Generator().manual_seed(0)
    seen = sizes = 0
    for k in range(30):
        x_13EE, target = frames.view(clip.frames_THWC[k % 3], clip.targets[k % 3], generator)
        assert x_13EE.shape == (1, 3, 96, 96)
        # Colours change by gain and tint: what is bright is so in comparison with the rest.
        grey = (x_13EE[0] * torch.tensor(STD)[:, None, None]).mean(0)
        inside = torch.zeros(96, 96, dtype=torch.bool)
        for left, top, right, bottom in target["boxes"].round().int().tolist():
            inside[top:bottom, left:right] = True
            assert 0 <= left < right <= 96 and 0 <= top < bottom <= 96
            inner = grey[top + 2 : bottom - 2, left + 2 : right - 2]
            assert inner.min() > grey[~inside].quantile(0.99)
            seen, sizes = seen + 1, sizes + (right - left)
    assert seen > 15 and sizes / seen > 25


def test_a_seed_gives_its_batch(frames):
    (x, some), (y, same), (z, _) = (frames.batch(3, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(x, y) and not torch.equal(x, z)
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(some, same, strict=True))
