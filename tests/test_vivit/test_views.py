"""Views of videos: where they start, what a short video does, how frames are resized and cropped."""

from __future__ import annotations

import pytest
import torch
from golden_vivit import golden_frames
from torchvision.transforms.functional import resize

from envs.vivit import ViewPlan, view_steps
from envs.vivit.model import tubelets
from envs.vivit.views import cropped, frame_indices, scaled, views


def test_starts_are_spread_over_the_video() -> None:
    index = frame_indices(301, ViewPlan(224, stride=2))
    # 64 frames are needed, 237 are to spare.
    assert index[:, 0].tolist() == [0, 79, 158, 237]
    assert index[3].tolist() == list(range(237, 301, 2))
    assert frame_indices(301, ViewPlan(224, stride=2, starts=1))[:, 0].tolist() == [118]


@pytest.mark.parametrize("length", [1, 5, 32])
def test_a_short_video_repeats_its_last_frame(length: int) -> None:
    index = frame_indices(length, ViewPlan(224, stride=1))
    expected = [min(t, length - 1) for t in range(32)]
    assert index.tolist() == [expected] * 4


def test_views_come_crop_by_crop() -> None:
    # Every frame has its number as its colour, so that the order can be read off.
    video = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 32, 48)
    plan = ViewPlan(32, stride=2, frames=8)
    x = (views(video, plan)[:, :, 0, 0, 0] * 0.225 + 0.45) * 255
    assert x.shape == (12, 8)
    assert x[:, 0].round().tolist() == [0, 8, 16, 24] * 3
    assert x[3].round().tolist() == list(range(24, 40, 2))


def test_crops_slide_along_the_longer_side() -> None:
    at_y, at_x = torch.meshgrid(torch.arange(7), torch.arange(12), indexing="ij")
    frames = torch.stack([at_y, at_x, at_x])[None].float()
    crops = cropped(frames, ViewPlan(7, stride=1))
    assert [tuple(crop[0, :2, 0, 0].tolist()) for crop in crops] == [(0, 0), (0, 2), (0, 5)]
    assert [tuple(c[0, :2, 0, 0].tolist()) for c in cropped(frames, ViewPlan(4, stride=1))] == [(0, 0), (1, 4), (3, 8)]
    assert cropped(frames, ViewPlan(7, stride=1, crops=1))[0, 0, 1, 0, 0] == 2


def test_frames_are_normalised_before_they_are_resized() -> None:
    frame = golden_frames(1, 72, 96)
    resized = scaled(frame, 64)
    assert resized.shape == (1, 3, 64, 85)
    # Resizing is linear, so the order shows only where it rounds: uint8 pixels would.
    pixels = resize(frame.float(), [64, 85], antialias=True)
    torch.testing.assert_close(resized, (pixels / 255 - 0.45) / 0.225, atol=1e-4, rtol=0)
    assert (resized - (pixels.round() / 255 - 0.45) / 0.225).abs().max() > 5e-3
    assert scaled(frame, 72).shape == frame.shape
    torch.testing.assert_close(scaled(frame, 72), (frame.float() / 255 - 0.45) / 0.225)


def test_pixels_of_the_published_views() -> None:
    # Figures of Eventful Transformers' own code.
    x = views(golden_frames(40, 72, 96), ViewPlan(64, stride=2, frames=8))
    means = [0.2255993, 0.2261006, 0.2258822, 0.2248231, 0.2246468, 0.224389]
    means += [0.2245223, 0.2233653, 0.2211494, 0.2215126, 0.2214331, 0.2204492]
    torch.testing.assert_close(x.mean((1, 2, 3, 4)), torch.tensor(means), atol=1e-5, rtol=0)
    last = [0.9629511, 0.08638918, -0.4204309, 0.3482187, 1.278989, -1.137479]
    index = [0, 19660, 39321, 58981, 78642, 98303]
    torch.testing.assert_close(x[-1].flatten()[index], torch.tensor(last), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(40, 72, 96), (11, 80, 50)])
def test_steps_made_one_by_one_are_those_of_all_views(shape: tuple[int, int, int]) -> None:
    video, plan = golden_frames(*shape), ViewPlan(32, stride=2, frames=8)
    steps = list(view_steps(video, plan))
    assert torch.equal(torch.stack(steps), torch.stack(list(tubelets(views(video, plan)))))
    assert steps[0].shape == (12, 6, 32, 32)


def test_what_has_no_views_is_refused() -> None:
    with pytest.raises(ValueError, match="without frames"):
        frame_indices(0, ViewPlan(224, stride=2))
    with pytest.raises(ValueError, match=r"uint8, got \(2, 8, 8, 3\)"):
        scaled(torch.zeros(2, 8, 8, 3, dtype=torch.uint8), 8)
    with pytest.raises(ValueError, match="float32"):
        scaled(torch.zeros(2, 3, 8, 8), 8)
    with pytest.raises(ValueError, match="at least 1"):
        ViewPlan(224, stride=0)
    with pytest.raises(ValueError, match="7 frames"):
        ViewPlan(16, stride=1, frames=7)
