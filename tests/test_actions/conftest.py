"""Videos whose frames tell their number, at any rate."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch

RATES = {59.94: Fraction(60000, 1001), 50: Fraction(50), 47.95: Fraction(48000, 1001), 29.97: Fraction(30000, 1001)}
BITS = 2 ** torch.arange(12)


def write(path, rate, seconds, size=(32, 24)):
    """Twelve tiles are the binary digits of a frame's number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = Fraction(RATES.get(rate, rate))
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = *size, "yuv420p", 4_000_000
        for k in range(round(seconds * rate)):
            digits = (k // BITS.numpy() % 2 * 200 + 28).astype(np.uint8).reshape(3, 4)
            tiles = digits.repeat(size[1] // 3, 0).repeat(size[0] // 4, 1)
            picture = av.VideoFrame.from_ndarray(tiles[..., None].repeat(3, 2), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def numbers_of(frames_TCHW):
    """Numbers of frames, by their tiles."""
    grid = frames_TCHW.float().mean(1).unflatten(2, (4, -1)).unflatten(1, (3, -1)).mean((2, 4))
    return ((grid.flatten(1) > 128) * BITS).sum(1)


@pytest.fixture
def video(tmp_path):
    return lambda rate, seconds, name="video.mp4", **options: write(tmp_path / name, rate, seconds, **options)


@pytest.fixture
def seen_numbers():
    return numbers_of


@pytest.fixture
def exact_rate():
    return lambda rate: float(RATES[rate])
