"""Frames keep the times that their source gives them, in what is read, in the JSON lines and in the written video."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from footage import moving_frames, write_video
from PIL import Image

from eventful.errors import VideoError
from eventful.video import FrameReader, VideoWriter, read_frames
from eventful.video.timing import FrameClock, plausible_fps

UNEVEN_MS = [0, 33, 67, 100, 133, 333, 533, 733]


def write_at(path: Path, times_ms: list[int], codec: str = "libx264", **options: Any) -> Path:
    """A video whose frames are shown at given times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for frame, ms in zip(moving_frames(len(times_ms), 64, 96), times_ms, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = ms, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def times(reader: FrameReader) -> list[float]:
    return [time for _, time in reader.timed()]


def times_by_pyav(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]


@pytest.mark.parametrize("start_ms", [0, 7000])
@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx")])
def test_uneven_times_are_read_and_written(name: str, codec: str, start_ms: int, tmp_path: Path) -> None:
    path = write_at(tmp_path / name, [start_ms + ms for ms in UNEVEN_MS], codec)
    wanted = np.array(UNEVEN_MS) / 1000
    np.testing.assert_allclose(times(read_frames(path)), wanted, atol=1e-3)
    for suffix in (".mp4", ".mkv"):
        out = tmp_path / f"out{suffix}"
        with VideoWriter(out, 30) as writer:
            for frame, time in read_frames(path).timed():
                writer.write(frame, time)
        np.testing.assert_allclose(times_by_pyav(out), wanted, atol=1e-3)


@pytest.mark.parametrize("fps", [10, 24000 / 1001, 30])
@pytest.mark.parametrize("count", [1, 11, 31])
def test_even_times_are_exact_and_no_frame_is_lost(count: int, fps: float, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", count, 64, 96, fps)
    np.testing.assert_allclose(times_by_pyav(path), np.arange(count) / fps, atol=1e-5)
    assert read_frames(path).fps == pytest.approx(fps, rel=1e-3)


def test_a_raw_stream_has_no_times_but_a_rate(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.h264"), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width = 64, 96
        for frame in moving_frames(6, 64, 96):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    np.testing.assert_allclose(times(read_frames(tmp_path / "a.h264")), np.arange(6) / 10)


def test_pictures_follow_each_other_at_the_rate_asked_for(tmp_path: Path) -> None:
    for k in range(3):
        Image.fromarray(moving_frames(1)[0]).save(tmp_path / f"{k}.png")
    assert times(read_frames(tmp_path, fps=4)) == [0, 0.25, 0.5]
    assert times(read_frames(tmp_path)) == pytest.approx([0, 0.04, 0.08])


def test_avi_has_one_rate(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", 12, fps=10)
    np.testing.assert_allclose(times(read_frames(path)), np.arange(12) / 10)
    frame = moving_frames(1)[0]
    with VideoWriter(tmp_path / "b.avi", 10) as writer:
        writer.write(frame, 0)
        writer.write(frame, 0.11)
        with pytest.raises(VideoError, match=r"one frame rate only, and frame 2 comes at 0\.500 s instead of 0\.200 s"):
            writer.write(frame, 0.5)
    assert times(read_frames(tmp_path / "b.avi")) == pytest.approx([0, 0.1])


def clocked(*stamps: float | None, fps: float = 10) -> list[float]:
    clock = FrameClock(fps)
    return [clock.at(None if stamp is None else Fraction(stamp)) for stamp in stamps]


def test_a_clock_makes_times_ascend() -> None:
    assert clocked(5, 5.5, 7) == [0, 0.5, 2]
    assert clocked(None, None, None) == pytest.approx([0, 0.1, 0.2])
    assert clocked(None, 9, 9.5) == pytest.approx([0, 0.1, 0.6]), "a time at last"
    assert clocked(0, 1, None, 2) == pytest.approx([0, 1, 1.1, 2]), "a time is missing"
    assert clocked(0, 1, 1, 2) == pytest.approx([0, 1, 1.001, 2]), "a time twice"
    assert clocked(50, 51, 0, 1) == pytest.approx([0, 1, 1.1, 2.1]), "the source's clock was set anew"


def test_ticks_are_no_rate() -> None:
    assert plausible_fps(Fraction(1000), Fraction(1, 1000)) is None
    assert plausible_fps(None, Fraction(1, 1000)) is None and plausible_fps(Fraction(0), None) is None
    assert plausible_fps(Fraction(25), Fraction(1, 25)) == 25
    assert plausible_fps(Fraction(240), Fraction(1, 90000)) == 240
