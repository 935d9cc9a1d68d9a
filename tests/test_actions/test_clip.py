"""Frames by time: the same span at any rate of the video, few frames in memory, one pass over the video."""

import pytest
import torch

from envs.actions import ActionClip, clip
from envs.actions.playhead import Playhead
from eventful.errors import VideoError

EVERY_RATE = [59.94, 50, 47.95, 29.97]


@pytest.mark.parametrize("rate", EVERY_RATE)
def test_a_view_spans_the_same_time_at_any_rate(video, seen_numbers, exact_rate, rate):
    found = ActionClip("clip", 3, video(rate, 4), 1.0, 3.0, 30.0)
    assert found.num_frames == 60
    index = torch.arange(32)
    times = seen_numbers(found.frames()[index]) / exact_rate(rate)
    torch.testing.assert_close(times, 1 + index / 30, atol=0.5 / rate + 1e-3, rtol=0)
    assert times[-1] - times[0] == pytest.approx(31 / 30, abs=1 / rate)


def test_at_twice_the_rate_every_second_frame_is_taken(video, seen_numbers):
    frames = ActionClip("half", 0, video(60, 2), 0.5, rate=30.0).frames()
    assert seen_numbers(frames[torch.arange(30)]).tolist() == list(range(30, 90, 2))


def test_without_a_rate_every_frame_of_the_video_is_one(video, seen_numbers):
    found = ActionClip("clip", 0, video(12, 2))
    assert found.num_frames == 24
    assert seen_numbers(found.frames()[torch.arange(24)]).tolist() == list(range(24))


def test_frames_come_in_any_order_and_more_than_once(video, seen_numbers):
    frames = ActionClip("clip", 0, video(25, 4), 0.5, 3.5, 25.0).frames()
    index = torch.tensor([70, 3, 3, 40, 0, 74, 41])
    found = frames[index]
    assert found.shape == (7, 3, 24, 32) and found.dtype == torch.uint8
    assert torch.equal(seen_numbers(found), index + 12)  # 12.5: of two that are as near, the earlier


def test_views_that_go_on_from_four_places_decode_each_place_once(video, seen_numbers, monkeypatch):
    opened = []
    playhead = Playhead

    def counted(path, time_s):
        opened.append(time_s)
        return playhead(path, time_s)

    path = video(25, 8)
    monkeypatch.setattr(clip, "Playhead", counted)
    frames = ActionClip("clip", 0, path, rate=25.0).frames()
    starts = torch.tensor([0, 45, 90, 136])
    for step in range(16):
        index = (starts[:, None] + torch.tensor([4 * step, 4 * step + 2])).flatten()
        assert torch.equal(seen_numbers(frames[index]), index)
    assert len(opened) <= 6 and len(frames._heads) <= 6


def test_a_clip_ends_with_its_video(video):
    path = video(25, 2)
    assert ActionClip("clip", 0, path, 1.0, 9.0, 30.0).num_frames == 30
    with pytest.raises(VideoError, match=r"clip late starts at 5\.00 s of video .*, which ends at 2\.00 s"):
        ActionClip("late", 0, path, 5.0, 6.0, 30.0).frames()


def test_a_very_short_clip_has_a_frame(video):
    assert len(ActionClip("clip", 0, video(25, 2), 1.0, 1.001, 30.0).frames()) == 1


def test_frames_that_there_are_not_are_refused(video):
    frames = ActionClip("clip", 0, video(25, 1), rate=25.0).frames()
    for number in (-1, 25):
        with pytest.raises(IndexError, match=f"clip clip has frames 0 to 24, not {number}"):
            frames[torch.tensor([number])]


def test_what_is_no_video_is_named(tmp_path):
    path = tmp_path / "broken.mp4"
    with pytest.raises(VideoError, match=r"broken\.mp4 does not exist"):
        ActionClip("clip", 0, path).frames()
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(VideoError, match=r"broken\.mp4 cannot be opened"):
        ActionClip("clip", 0, path).frames()


def test_a_video_that_breaks_is_named_where_it_does(video):
    path = video(25, 4)
    data = bytearray(path.read_bytes())
    begin = data.index(b"mdat") + 4
    data[begin + len(data) // 3 :] = data[begin + len(data) // 3 :].translate(bytes(256))
    broken = path.with_name("broken.mp4")
    broken.write_bytes(data)
    with pytest.raises(VideoError, match=r"broken\.mp4 cannot be"):
        ActionClip("clip", 0, broken).frames()[torch.arange(100)]


def test_the_key_changes_with_the_frames(video):
    path = video(25, 1)
    keys = {
        ActionClip("a", 0, path, start, stop, rate).key for start in (0, 0.1) for stop in (None, 1) for rate in (1, 2)
    }
    assert len(keys) == 8
    video(25, 2)
    assert ActionClip("a", 0, path, 0, None, 1).key not in keys


def test_pixels_are_square_in_frames(video, seen_numbers):
    frames = ActionClip("wide", 0, video(25, 1, pixel_aspect=2), rate=25.0).frames()[torch.tensor([3, 20])]
    assert frames.shape == (2, 3, 24, 64) and seen_numbers(frames).tolist() == [3, 20]
