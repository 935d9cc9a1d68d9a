"""Random views of labelled frames: mirrors, cuts, colours, and how often frames are drawn."""

import torch

from train.recipe.views import cut, flip, rarity_weights, recolour


def test_flip_mirrors_frame_and_boxes_and_twice_is_nothing():
    frames = torch.zeros(1, 240, 320, 3, dtype=torch.uint8)
    frames[0, 50:70, 30:60] = 255
    target = {"boxes": torch.tensor([[30.0, 50, 60, 70]]), "labels": torch.tensor([3])}
    mirrored, (view,) = flip(frames, [target])
    x1, y1, x2, y2 = view["boxes"][0].int().tolist()
    assert (mirrored[0, y1:y2, x1:x2] == 255).all() and mirrored.sum() == frames.sum()
    back, (again,) = flip(mirrored, [view])
    assert torch.equal(back, frames) and torch.equal(again["boxes"], target["boxes"])


def test_a_cut_keeps_what_it_leaves_most_of():
    boxes = torch.tensor([[10.0, 10, 30, 30], [0, 10, 20, 30], [0, 10, 12, 30], [28, 28, 60, 60], [12, 12, 13, 13]])
    target = {"boxes": boxes, "labels": torch.arange(5)}
    seen = cut(target, (10, 10, 20, 20), 2.0)
    # The first is whole, of the second half is left; less of the third and fourth; the last is too small.
    assert seen["labels"].tolist() == [0, 1]
    assert seen["boxes"].tolist() == [[0, 0, 20, 20], [0, 0, 10, 20]]


def test_colours_change_alike_for_a_seed_and_stay_bytes():
    frames = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    one, again, other = (recolour(frames, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert one.dtype == torch.uint8 and one.shape == frames.shape
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_frames_with_rare_classes_weigh_more():
    weights = rarity_weights([torch.tensor([0]), torch.tensor([0, 0]), torch.tensor([1]), torch.zeros(0).long()], 2)
    # A class counts once a frame: 0 in two frames, 1 in one; the mean over classes is 1.5.
    expected = torch.tensor([0.3 + 0.75**0.5, 0.3 + 0.75**0.5, 0.3 + 1.5**0.5, 0.3])
    torch.testing.assert_close(weights, expected)
