"""Picture files: every depth and mode, every picture of a file with its time, and what is refused."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from footage import moving_frames
from PIL import Image

from eventful.errors import VideoError
from eventful.video import read_frames

RAMP = np.broadcast_to(np.arange(256, dtype=np.uint8), (8, 256))


def read_one(path: Path) -> np.ndarray:
    """The picture of a file, which is the same alone and in a folder."""
    (alone,), (in_folder,) = read_frames(path), read_frames(path.parent)
    np.testing.assert_array_equal(alone, in_folder)
    return alone


def save(path: Path, pixels: np.ndarray | Image.Image, **options: Any) -> Path:
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


def tiff(path: Path, pixels: bytes, width: int, height: int, **tags: int) -> Path:
    """A TIFF written by hand, for what Pillow does not write: one strip, one sample a pixel."""
    entries = {
        256: width,
        257: height,
        258: tags["bits"],
        259: 1,
        262: tags["photometric"],
        273: 8,
        277: 1,
        278: height,
    }
    entries[279] = len(pixels)
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    head = b"II*\0" + struct.pack("<I", 8 + len(pixels))
    path.write_bytes(head + pixels + struct.pack("<H", len(entries)) + table + bytes(4))
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bits_of_gray(name: str, tmp_path: Path) -> None:
    frame = read_one(save(tmp_path / name, RAMP.astype(np.uint16) * 257))
    np.testing.assert_array_equal(frame, RAMP[..., None].repeat(3, -1))


def test_sixteen_bits_of_colour(tmp_path: Path) -> None:
    deep = np.stack([RAMP, RAMP[:, ::-1], RAMP // 2], -1).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 256, 8, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    )
    assert np.abs(read_one(path) - (deep / 257)).max() <= 1


def test_twelve_bits_and_white_is_zero(tmp_path: Path) -> None:
    # Two pixels in three bytes: black and white, 0x000 and 0xfff.
    frame = read_one(tiff(tmp_path / "a.tif", bytes([0x00, 0x0F, 0xFF]), 2, 1, bits=12, photometric=1))
    assert frame[0].tolist() == [[0] * 3, [255] * 3]
    os.remove(tmp_path / "a.tif")
    samples = np.array([0, 0x8000, 0xFFFF], "<u2").tobytes()
    frame = read_one(tiff(tmp_path / "b.tif", samples, 3, 1, bits=16, photometric=0))
    assert frame[0, :, 0].tolist() == [255, 127, 0]


def test_every_mode_is_seen_as_it_is(tmp_path: Path) -> None:
    colour = Image.fromarray(moving_frames(1)[0])
    palette = colour.convert("P", palette=Image.Palette.ADAPTIVE)
    cases = {
        "bits.png": (colour.convert("1"), colour.convert("1").convert("RGB")),
        "palette.png": (palette, palette.convert("RGB")),
        "cmyk.tif": (colour.convert("CMYK"), colour),
        "gray.png": (colour.convert("L"), colour.convert("L").convert("RGB")),
        "gray.bmp": (colour.convert("L"), colour.convert("L").convert("RGB")),
        "luma.tif": (colour.convert("YCbCr"), colour.convert("YCbCr").convert("RGB")),
    }
    for k, (name, (image, seen)) in enumerate(cases.items()):
        (tmp_path / str(k)).mkdir()
        frame = read_one(save(tmp_path / str(k) / name, image))
        assert np.abs(frame.astype(int) - np.asarray(seen)).max() <= 1, name


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_over_black(mode: str, tmp_path: Path) -> None:
    pixels = np.full((8, 8, 4), (200, 200, 200, 255), np.uint8)
    pixels[:4, :, 3] = 0
    pixels[4:6, :, 3] = 128
    image = Image.fromarray(pixels)
    if mode == "P":
        image = Image.fromarray((pixels[..., 3] // 128).astype(np.uint8), "P")
        image.putpalette([200] * 9)
        frame = read_one(save(tmp_path / "a.png", image, transparency=bytes([0, 128, 255])))
        assert (frame[:4] == 0).all() and (frame[4:] == 100).all()
        return
    frame = read_one(save(tmp_path / "a.png", image.convert(mode)))
    assert (frame[:4] == 0).all() and (frame[4:6] == 100).all() and (frame[6:] == 200).all()


@pytest.mark.parametrize(("dtype", "kind"), [(np.float32, "floating-point"), (np.int32, "32-bit or signed")])
def test_samples_of_unknown_range_are_refused(dtype: Any, kind: str, tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", RAMP.astype(dtype))
    for source in (path, tmp_path):
        with pytest.raises(VideoError, match=rf"a\.tif has samples that are {kind} numbers, .* 8 or 16 bits a sample"):
            list(read_frames(source))


SHOWN_MS = [100, 100, 300, 1000, 200]


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.avif"])
def test_animations_keep_their_times(name: str, tmp_path: Path) -> None:
    first, *others = (Image.fromarray(frame) for frame in moving_frames(5))
    if name == "a.avif":
        pytest.importorskip("PIL._avif")
    first.save(tmp_path / name, save_all=True, append_images=others, duration=SHOWN_MS)
    save(tmp_path / "b.png", moving_frames(6)[5])
    reader = read_frames(tmp_path / name)
    frames, times = zip(*reader.timed(), strict=True)
    assert times == pytest.approx([0, 0.1, 0.2, 0.5, 1.5]) and reader.fps == pytest.approx(10) and reader.count == 5
    for frame, wanted in zip(frames, moving_frames(5), strict=True):
        assert np.abs(frame.astype(int) - wanted).mean() < 12
    folder = [time for _, time in read_frames(tmp_path, fps=5).timed()]
    assert folder == pytest.approx([0, 0.1, 0.2, 0.5, 1.5, 1.7]), "a still picture follows the animation"


def test_animations_that_stutter_are_shown_as_browsers_do(tmp_path: Path) -> None:
    first, second = (Image.fromarray(frame) for frame in moving_frames(2))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second, first], duration=[10, 20, 20])
    assert [time for _, time in read_frames(tmp_path / "a.gif").timed()] == pytest.approx([0, 0.1, 0.12])


def test_pages_of_a_tiff(tmp_path: Path) -> None:
    first, second, small = (Image.fromarray(frame) for frame in (*moving_frames(2), moving_frames(1)[0][::2, ::2]))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second, small])
    frames, times = zip(*read_frames(tmp_path / "a.tif", fps=2).timed(), strict=True)
    np.testing.assert_array_equal(frames, moving_frames(2))
    assert times == (0, 0.5)


def test_what_stands_in_for_an_animation_is_no_part_of_it(tmp_path: Path) -> None:
    still, first, second = (Image.fromarray(frame) for frame in moving_frames(3))
    still.save(tmp_path / "a.png", save_all=True, append_images=[first, second], default_image=True, duration=100)
    np.testing.assert_array_equal(list(read_frames(tmp_path / "a.png")), moving_frames(3)[1:])


def test_further_pictures_of_a_photograph_are_no_frames(tmp_path: Path) -> None:
    first, second = (Image.fromarray(frame) for frame in moving_frames(2))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert len(list(read_frames(tmp_path))) == len(list(read_frames(tmp_path / "a.jpg"))) == 1


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_an_animation_that_is_cut_off(name: str, tmp_path: Path) -> None:
    first, *others = (Image.fromarray(frame) for frame in moving_frames(5))
    first.save(tmp_path / name, save_all=True, append_images=others)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match=f"{name} (cannot be read|is cut off after)"):
        list(read_frames(tmp_path / name))


def test_a_picture_is_known_by_its_content(tmp_path: Path) -> None:
    first, second = (Image.fromarray(frame) for frame in moving_frames(2))
    first.save(tmp_path / "scan", format="TIFF", save_all=True, append_images=[second])
    assert len(list(read_frames(tmp_path / "scan"))) == 2


def test_postscript_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
    with pytest.raises(VideoError, match=r"a\.png cannot be read: its content is none of JPEG, PNG"):
        list(read_frames(tmp_path))


@pytest.mark.parametrize("name", ["a.png", "a.mp4"])
def test_a_pipe_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(VideoError, match="is no regular file"):
        list(read_frames(tmp_path / name))
    if name == "a.png":
        with pytest.raises(VideoError, match="is no regular file"):
            list(read_frames(tmp_path))
