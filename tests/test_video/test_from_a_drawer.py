"""What people have in a drawer: films and folders of all kinds; their frames, the order of these and their times."""

from __future__ import annotations

import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from footage import moving_frames
from PIL import Image

from envs.footage import videos_in
from eventful.errors import VideoError
from eventful.video import read_frames

COUNT = 12


def film(path: Path, codec: str = "libx264", pixels: str = "yuv420p", **how: Any) -> Path:
    """Twelve frames, ten a second; `first_ms`, `options` of the encoder and `container` options as asked."""
    with av.open(str(path), "w", options=how.get("container", {})) as container:
        stream = container.add_stream(codec, rate=how.get("rate", 10), options=how.get("options", {}))
        stream.height, stream.width, stream.pix_fmt = 64, 96, pixels
        if "first_ms" in how:
            stream.codec_context.time_base = Fraction(1, 1000)
        for k, frame in enumerate(moving_frames(COUNT, 64, 96)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if "first_ms" in how:
                picture.pts, picture.time_base = how["first_ms"] + 100 * k, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


B_FRAMES = {"bf": "3", "preset": "slow"}
QUIET = "log-level=none"
FILMS: dict[str, tuple[str, dict[str, Any]]] = {
    "b-frames": ("a.mp4", {"options": B_FRAMES}),
    "b-frames in AVI": ("a.avi", {"options": B_FRAMES}),
    "b-frames in a transport stream": ("a.ts", {"options": B_FRAMES}),
    "B-frames without times": ("a.h264", {"options": B_FRAMES}),
    "first times below 0": ("a.mkv", {"first_ms": -500, "container": {"avoid_negative_ts": "disabled"}}),
    "a clock that wraps": ("a.ts", {"first_ms": 95443217, "options": B_FRAMES}),
    "no duration": ("a.mkv", {"container": {"live": "1"}}),
    "fragments": ("a.mp4", {"container": {"movflags": "frag_keyframe+empty_moov"}}),
    "flash": ("a.flv", {}),
    "a frame every two seconds": ("a.mp4", {"rate": Fraction(1, 2)}),
    "HEVC": ("a.mp4", {"codec": "libx265", "options": {"x265-params": QUIET}}),
    "twelve bits": ("a.mp4", {"codec": "libx265", "pixels": "yuv420p12le", "options": {"x265-params": QUIET}}),
    "an editor's": ("a.mov", {"codec": "prores_ks", "pixels": "yuv422p10le"}),
    "16 bits of colour": ("a.mkv", {"codec": "ffv1", "pixels": "gbrp16le"}),
    "motion JPEG": ("a.avi", {"codec": "mjpeg", "pixels": "yuvj420p"}),
    "transparent": ("a.mov", {"codec": "qtrle", "pixels": "argb"}),
}


@pytest.mark.parametrize(("name", "how"), FILMS.values(), ids=FILMS)
def test_frames_and_times_of_films(name: str, how: dict[str, Any], tmp_path: Path) -> None:
    if how.get("codec", "libx264") not in av.codecs_available:
        pytest.skip("this FFmpeg has no such encoder")
    frames, times = zip(*read_frames(film(tmp_path / name, **how)).timed(), strict=True)
    np.testing.assert_allclose(times, np.arange(COUNT) / float(how.get("rate", 10)), atol=2e-3)
    wanted = moving_frames(COUNT, 64, 96)
    nearest = [int(np.abs(np.stack(wanted).astype(int) - frame).mean((1, 2, 3)).argmin()) for frame in frames]
    assert nearest == list(range(COUNT))


@pytest.mark.parametrize("sizes", [((64, 96), (64, 96)), ((32, 48), (64, 96))])
def test_of_two_films_in_one_file_one_is_read(sizes: tuple[tuple[int, int], ...], tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        streams = [container.add_stream("libx264", rate=10) for _ in sizes]
        for stream, size in zip(streams, sizes, strict=True):
            (stream.height, stream.width), stream.pix_fmt = size, "yuv420p"
        for stream, (height, width), count in zip(streams, sizes, (8, 5), strict=True):
            for frame in moving_frames(count, 64, 96):
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
    with av.open(str(tmp_path / "a.mkv")) as container:
        best = container.streams.best("video").index
    frames = list(read_frames(tmp_path / "a.mkv"))
    assert len(frames) == (8, 5)[best] and frames[0].shape[:2] == sizes[best]


def test_what_is_read_as_it_is_stored_is_said(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", options={"x264-params": "tff=1"})
    with pytest.warns(UserWarning, match=r"a\.mp4 is interlaced: .* Deinterlace it"):
        assert len(list(read_frames(path))) == COUNT
    if "libx265" in av.codecs_available:
        tones = f"{QUIET}:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
        path = film(tmp_path / "b.mp4", "libx265", "yuv420p10le", options={"x265-params": tones})
        with pytest.warns(UserWarning, match=r"b\.mp4 has a high dynamic range \(PQ\)"):
            list(read_frames(path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(read_frames(film(tmp_path / "c.mp4")))


def folder(path: Path, *names: str) -> Path:
    """A folder of pictures, each of another brightness: 10 for the first, 20 for the second, ..."""
    path.mkdir()
    for k, name in enumerate(names):
        Image.new("RGB", (16, 16), (10 * (k + 1),) * 3).save(path / name, format="PNG")
    return path


@pytest.mark.parametrize(
    "names",
    [
        [f"{k}.png" for k in range(1, 12)],
        ["frame 9.png", "frame 10.png", "Frame 11.png"],
        ["a1.PNG", "A2.png", "a3.png"],
        ["1700000000.25.png", "1700000000.3.png", "1700000001.png"],
        ["1.2.png", "1.10.png", "2.1.png"],
        ["1.png", "1²1.png", "2.png"],
    ],
)
def test_pictures_come_in_the_order_of_their_numbers(names: list[str], tmp_path: Path) -> None:
    frames = list(read_frames(folder(tmp_path / "a", *names)))
    assert [int(frame[0, 0, 0]) // 10 for frame in frames] == list(range(1, len(names) + 1))


def test_pictures_that_cannot_be_read_are_not_left_out_without_a_word(tmp_path: Path) -> None:
    pictures = folder(tmp_path / "a", "1.png", "2.png", "4.jfif")
    for name in ("1.cr2", "2.dng", "Thumbs.db", "notes.txt", ".3.heic"):
        (pictures / name).write_bytes(b"")
    assert len(list(read_frames(pictures))) == 3, "raw data of a picture that is there, and no pictures"
    for name in ("3.heic", "3.tga", "3.jxl"):
        (pictures / name).write_bytes(b"")
        for read in (read_frames, videos_in):
            with pytest.raises(VideoError, match=rf"1 pictures that cannot be read, such as {name}, among 3 that can"):
                read(pictures)
        (pictures / name).unlink()


def test_a_tile_of_a_photograph_is_no_film(tmp_path: Path) -> None:
    for brand in (b"heic", b"mif1"):
        (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(4) + brand)
        with pytest.raises(VideoError, match=r"a\.heic is a HEIF picture, which cannot be read: convert it to JPEG"):
            read_frames(tmp_path / "a.heic")
