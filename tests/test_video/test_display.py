"""What is read is what a player shows: turned, mirrored, stretched; of any depth of samples."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from footage import moving_frames
from PIL import Image, ImageOps

from eventful.errors import UserError, VideoError
from eventful.video import read_frames

CORNERS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


def quarters(height: int = 64, width: int = 96) -> np.ndarray:
    """Red and green above blue and white."""
    frame = np.zeros((height, width, 3), np.uint8)
    for k, colour in enumerate(CORNERS.values()):
        y, x = k // 2 * height // 2, k % 2 * width // 2
        frame[y : y + height // 2, x : x + width // 2] = colour
    return frame


def corners(frame: np.ndarray) -> str:
    """Names of the colours in the corners, row by row."""
    y, x = frame.shape[0] // 4, frame.shape[1] // 4
    points = (frame[y, x], frame[y, -x], frame[-y, x], frame[-y, -x])
    near = [min(CORNERS, key=lambda name: np.abs(point - np.array(CORNERS[name])).sum()) for point in points]
    return " ".join(near)


def write_shown(path: Path, matrix: list[list[int]] | None = None, aspect: Fraction | None = None) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        if matrix is not None:
            (a, b), (c, d) = matrix
            one = 1 << 16
            stream.set_display_matrix([a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30])
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(quarters(), format="rgb24")))
        container.mux(stream.encode())
    return path


ORIENTATIONS = [
    ([[1, 0], [0, 1]], "red green blue white"),
    ([[-1, 0], [0, 1]], "green red white blue"),
    ([[-1, 0], [0, -1]], "white blue green red"),
    ([[1, 0], [0, -1]], "blue white red green"),
    ([[0, 1], [1, 0]], "red blue green white"),
    ([[0, 1], [-1, 0]], "blue red white green"),
    ([[0, -1], [-1, 0]], "white green blue red"),
    ([[0, -1], [1, 0]], "green white red blue"),
]
"""By EXIF number, from 1: (x, y) is shown at (x, y) @ matrix."""


@pytest.mark.parametrize(("number", "matrix", "seen"), [(k + 1, *row) for k, row in enumerate(ORIENTATIONS)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_films_are_turned_and_mirrored(
    number: int, matrix: list[list[int]], seen: str, suffix: str, tmp_path: Path
) -> None:
    frame = next(iter(read_frames(write_shown(tmp_path / f"a{suffix}", matrix))))
    assert corners(frame) == seen
    assert frame.shape[:2] == ((64, 96) if number < 5 else (96, 64)) and frame.flags.c_contiguous


@pytest.mark.parametrize(("number", "seen"), [(k + 1, seen) for k, (_, seen) in enumerate(ORIENTATIONS)])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_photographs_are_turned_and_mirrored(number: int, seen: str, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = number
    Image.fromarray(quarters()).save(tmp_path / f"a{suffix}", exif=exif)
    for source in (tmp_path, tmp_path / f"a{suffix}"):
        assert corners(next(iter(read_frames(source)))) == seen


def test_a_film_that_stands_askew_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width = 64, 96
        stream.set_display_rotation(30)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(quarters(), format="rgb24")))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match=r"a\.mp4 is to be shown turned by 30 degrees; only quarter turns"):
        list(read_frames(path))


@pytest.mark.parametrize(
    ("aspect", "matrix", "shape"),
    [
        (Fraction(2), None, (64, 192)),
        (Fraction(1, 2), None, (128, 96)),
        (Fraction(4, 3), None, (64, 128)),
        (Fraction(2), [[0, -1], [1, 0]], (192, 64)),
        (Fraction(1), None, (64, 96)),
    ],
)
def test_pixels_are_made_square(
    aspect: Fraction, matrix: list[list[int]] | None, shape: tuple[int, int], tmp_path: Path
) -> None:
    for suffix in (".mp4", ".mkv"):
        frame = next(iter(read_frames(write_shown(tmp_path / f"a{suffix}", matrix, aspect))))
        assert frame.shape[:2] == shape
        assert corners(frame) == ("red green blue white" if matrix is None else "green white red blue")


def test_ten_bit_films(tmp_path: Path) -> None:
    for pixel_format in ("yuv420p10le", "yuv444p10le", "yuvj420p"):
        path = tmp_path / f"{pixel_format}.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=10, options={"crf": "10"})
            stream.height, stream.width, stream.pix_fmt = 96, 128, pixel_format
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moving_frames(1)[0], format="rgb24")))
            container.mux(stream.encode())
        (frame,) = read_frames(path)
        assert np.abs(frame.astype(int) - moving_frames(1)[0]).mean() < 12


def test_transparency_of_films_lies_over_black(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.height, stream.width, stream.pix_fmt = 8, 8, "rgba"
        pixels = np.full((8, 8, 4), (200, 100, 50, 255), np.uint8)
        pixels[:4, :, 3] = 0
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
        container.mux(stream.encode())
    (frame,) = read_frames(tmp_path / "a.mov")
    assert (frame[:4] == 0).all() and (frame[4:] == (200, 100, 50)).all()


def test_a_limit_of_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (16384, 8192)).save(tmp_path / "a.png")
    with pytest.raises(VideoError, match=r"a\.png has 8192x16384 pixels .* limit of 67,108,864: set EVENTFUL_MAX_PIX"):
        next(iter(read_frames(tmp_path / "a.png")))
    film = write_shown(tmp_path / "a.mp4", aspect=Fraction(20))
    monkeypatch.setenv("EVENTFUL_MAX_PIXELS", "100000")
    with pytest.raises(VideoError, match=r"a\.mp4 has 64x1920 pixels"):
        next(iter(read_frames(film)))
    monkeypatch.setenv("EVENTFUL_MAX_PIXELS", "2000000")
    assert next(iter(read_frames(film))).shape == (64, 1920, 3)
    monkeypatch.setenv("EVENTFUL_MAX_PIXELS", "many")
    with pytest.raises(UserError, match="EVENTFUL_MAX_PIXELS=many"):
        next(iter(read_frames(film)))


def test_orientations_are_those_of_exif() -> None:
    for k, (_, seen) in enumerate(ORIENTATIONS):
        image = Image.fromarray(quarters())
        image.getexif()[0x0112] = k + 1
        assert corners(np.asarray(ImageOps.exif_transpose(image))) == seen
