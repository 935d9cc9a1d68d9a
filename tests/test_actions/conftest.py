"""Videos whose frames tell their number, at any rate, and tiny trees of the public layouts."""

import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

RATES = {59.94: Fraction(60000, 1001), 50: Fraction(50), 47.95: Fraction(48000, 1001), 29.97: Fraction(30000, 1001)}
BITS = 2 ** torch.arange(12)


def write(path, rate, seconds, size=(32, 24), pixel_aspect=1):
    """Twelve tiles are the binary digits of a frame's number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = Fraction(RATES.get(rate, rate))
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = *size, "yuv420p", 4_000_000
        stream.codec_context.sample_aspect_ratio = Fraction(pixel_aspect)
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


EPIC_ROWS = """\
narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,\
narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes
P01_11_0,P01,P01_11,00:00:00.560,00:00:00.00,00:00:01.50,1,90,take plate,take,0,plate,2,['plate'],[2]
P01_11_1,P01,P01_11,00:00:00.560,00:00:01.25,00:00:02.00,75,120,put it down,put-down,1,plate,2,"['plate', 'it']",[2]
P22_07_0,P22,P22_07,00:00:00.560,00:00:00.50,00:00:03.00,25,150,pour,pour-in,9,water,27,['water'],[27]
"""


@pytest.fixture
def epic(tmp_path, video):
    root = tmp_path / "epic"
    root.mkdir()
    (root / "EPIC_100_validation.csv").write_text(EPIC_ROWS)
    video(59.94, 2.5, "epic/videos/P01_11.MP4")
    video(50, 3.5, "epic/P22/videos/P22_07.mp4")
    return root


@pytest.fixture
def kinetics(tmp_path, video):
    """400 classes in any order, of which three videos are left."""
    root = tmp_path / "kinetics"
    rows = [f"class {k:03d},id{k:09d},{k},{k + 10},val" for k in range(400)]
    video(29.97, 2, "kinetics/videos/id000000399_000399_000409.mp4")
    for k in (7, 120):
        shutil.copy(root / "videos/id000000399_000399_000409.mp4", root / f"videos/id{k:09d}_{k:06d}_{k + 10:06d}.mp4")
    (root / "val.csv").write_text("\n".join(["label,youtube_id,time_start,time_end,split", *reversed(rows)]) + "\n")
    return root


@pytest.fixture
def folders(tmp_path, video):
    for name in ("train/walk/a.mp4", "train/jump/b.mp4", "val/walk/c.mp4", "val/walk/d.mp4"):
        video(12, 1, f"own/{name}")
    (tmp_path / "own/val/walk/notes.txt").write_text("no video")
    (tmp_path / "own/val/jump").mkdir()
    return tmp_path / "own"
