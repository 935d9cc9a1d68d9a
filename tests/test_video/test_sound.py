"""The sound of a video goes into what is written, in step with the pictures, or is said to be left out."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from footage import moving_frames

from eventful.video import VideoWriter, read_frames
from eventful.video.sound import sound_of

RATE = 48000
BEEPS = [1.0, 2.0]


def write_with_beeps(path: Path, codec: str, start: float = 0.0, frames: int = 30) -> Path:
    """Ten frames a second, and a beep of 50 ms at each of `BEEPS`; all of it `start` seconds late."""
    with av.open(str(path), "w") as container:
        film, track = container.add_stream("libx264", rate=10), container.add_stream(codec, rate=RATE)
        film.height, film.width, film.pix_fmt = 64, 96, "yuv420p"
        film.codec_context.time_base = Fraction(1, 1000)
        container.start_encoding()
        for k, frame in enumerate(moving_frames(frames, 64, 96)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = round((start + k / 10) * 1000), Fraction(1, 1000)
            container.mux(film.encode(picture))
        container.mux(film.encode())
        coder = track.codec_context
        resampler = av.AudioResampler(coder.format.name, "stereo", RATE, coder.frame_size or 1024)
        t = np.arange(frames * RATE // 10) / RATE
        tone = 0.5 * np.sin(2 * np.pi * 440 * t) * ((t >= BEEPS[0]) & (t % 1 < 0.05))
        wave = av.AudioFrame.from_ndarray(np.stack([tone, tone]).astype(np.float32), "fltp", "stereo")
        wave.sample_rate, wave.pts, wave.time_base = RATE, round(start * RATE), Fraction(1, RATE)
        for part in resampler.resample(wave):
            container.mux(track.encode(part))
        container.mux(track.encode())
    return path


def beeps_in(path: Path) -> tuple[float, list[float]]:
    """When the first picture is shown, and when beeps begin, in seconds."""
    with av.open(str(path)) as container:
        first = next(container.decode(video=0))
        first_s = float(first.pts * first.time_base)
    loud: list[float] = []
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("fltp", "mono", RATE)
        for frame in container.decode(audio=0):
            for part in resampler.resample(frame):
                start_s = float(part.pts * part.time_base)
                loud += (start_s + np.flatnonzero(np.abs(part.to_ndarray()[0]) > 0.1) / RATE).tolist()
    return first_s, [time for k, time in enumerate(loud) if k == 0 or time - loud[k - 1] > 0.5]


def copy(source: Path, out: Path, frames: int | None = None) -> str | None:
    """What of the sound was left out."""
    reader = read_frames(source)
    sound = sound_of(reader)
    assert sound is not None
    with VideoWriter(out, reader.fps, sound) as writer:
        for k, (frame, time) in enumerate(reader.timed()):
            if k == frames:
                break
            writer.write(frame, time)
    return sound.left_out


@pytest.mark.parametrize("start", [0.0, 5.0])
@pytest.mark.parametrize(
    ("source", "codec"), [("a.mp4", "aac"), ("a.mkv", "libopus"), ("a.mkv", "flac"), ("a.ts", "aac")]
)
@pytest.mark.parametrize("out", ["out.mp4", "out.mkv"])
def test_sound_stays_in_step(source: str, codec: str, start: float, out: str, tmp_path: Path) -> None:
    path = write_with_beeps(tmp_path / source, codec, start)
    was_first, were = beeps_in(path)
    assert copy(path, tmp_path / out) is None
    first, beeps = beeps_in(tmp_path / out)
    np.testing.assert_allclose(np.array(beeps) - first, np.array(were) - was_first, atol=0.015)
    np.testing.assert_allclose(np.array(beeps) - first, BEEPS, atol=0.03)
    assert len(list(read_frames(tmp_path / out))) == 30


def test_sound_ends_with_the_pictures(tmp_path: Path) -> None:
    path = write_with_beeps(tmp_path / "a.mp4", "aac")
    assert copy(path, tmp_path / "out.mp4", frames=15) is None
    assert len(beeps_in(tmp_path / "out.mp4")[1]) == 1
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) / RATE == pytest.approx(1.5, abs=0.05)


@pytest.mark.parametrize(
    ("source", "codec", "out"),
    [
        ("a.mkv", "pcm_s16le", "out.mp4"),
        ("a.mkv", "flac", "out.ts"),
        ("a.mkv", "libopus", "out.avi"),
        ("a.ts", "aac", "out.avi"),
    ],
)
def test_a_container_that_does_not_take_the_sound_says_so(source: str, codec: str, out: str, tmp_path: Path) -> None:
    left_out = copy(write_with_beeps(tmp_path / source, codec), tmp_path / out)
    assert left_out is not None and ("does not support" in left_out or "does not take it" in left_out)
    with av.open(str(tmp_path / out)) as container:
        assert not container.streams.audio
    assert len(list(read_frames(tmp_path / out))) == 30


def test_without_sound(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 10) as writer:
        writer.write(moving_frames(1)[0])
    assert sound_of(read_frames(tmp_path / "a.mp4")) is None
