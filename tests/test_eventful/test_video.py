"""Video in and out: round trips, folders, and one clear error for each way in which a video can be bad."""

from __future__ import annotations

import weakref
from pathlib import Path

import av
import numpy as np
import pytest
from footage import moving_frames, write_video
from PIL import Image

from eventful.errors import VideoError
from eventful.video.overlay import annotate
from eventful.video.reader import StreamReader, read_frames
from eventful.video.writer import VideoWriter


def read_until_error(source: Path) -> tuple[int, str]:
    """How many frames came before the error, and its message."""
    count = 0
    with pytest.raises(VideoError) as caught:
        for _ in read_frames(source):
            count += 1
    return count, str(caught.value)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"deeper/a{suffix}", fps=10)
    reader = read_frames(path)
    frames = list(reader)
    assert reader.fps == pytest.approx(10)
    assert len(frames) == 20
    assert frames[0].dtype == np.uint8 and frames[0].shape == (96, 128, 3)
    error = np.abs(np.stack(frames).astype(int) - np.stack(moving_frames(20)))
    assert error.mean() < 10
    assert len(list(reader)) == 20, "each iteration starts from the first frame"


def test_odd_sides_grow_by_one(tmp_path: Path) -> None:
    path = write_video(tmp_path / "odd.mp4", 3, 95, 127)
    assert next(iter(read_frames(path))).shape == (96, 128, 3)


def test_writer_finishes_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with pytest.raises(RuntimeError, match="crash"), VideoWriter(path, 25) as video:
        for frame in moving_frames(7):
            video.write(frame)
        raise RuntimeError("crash")
    assert len(list(read_frames(path))) == 7


def test_writer_refuses(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 25) as video:
        video.write(np.zeros((32, 32, 3), np.uint8))
        with pytest.raises(VideoError, match=r"frame of 32x48 in a video of 32x32"):
            video.write(np.zeros((32, 48, 3), np.uint8))
        with pytest.raises(VideoError, match="uint8"):
            video.write(np.zeros((32, 32, 3)).astype(np.float64))
    with (
        pytest.raises(VideoError, match=r"a\.unknown cannot be written"),
        VideoWriter(tmp_path / "a.unknown", 25) as video,
    ):
        video.write(np.zeros((32, 32, 3), np.uint8))


def test_writer_creates_nothing_without_a_frame(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 25):
        pass
    assert not (tmp_path / "a.mp4").exists()


def test_folder_in_natural_order(tmp_path: Path) -> None:
    for k in (10, 9, 1):
        Image.fromarray(np.full((8, 8, 3), k, np.uint8)).save(tmp_path / f"frame{k}.png")
    (tmp_path / "notes.txt").write_text("no image")
    reader = read_frames(tmp_path, fps=5)
    assert [int(frame[0, 0, 0]) for frame in reader] == [1, 9, 10]
    assert (reader.fps, reader.count) == (5, 3)
    # Superscripts are digits, but no decimals.
    (tmp_path / "frame9.png").rename(tmp_path / "frame9\u00b2.png")
    assert [int(frame[0, 0, 0]) for frame in read_frames(tmp_path)] == [1, 9, 10]


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"nope\.mp4 does not exist"):
        read_frames(tmp_path / "nope.mp4")


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"has no images \(.*\)$"):
        read_frames(tmp_path)
    for name in (".DS_Store", "a.txt", "film.mp4"):
        (tmp_path / name).touch()
    with pytest.raises(VideoError, match=r"has no images .* a film is given by its own path, such as .*film\.mp4$"):
        read_frames(tmp_path)


def test_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"this is no video" * 100)
    with pytest.raises(VideoError, match=r"a\.mp4 cannot be opened"):
        read_frames(tmp_path / "a.mp4")


def test_sound_only(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(VideoError, match="no video stream"):
        read_frames(tmp_path / "a.wav")


def test_cut_off_header(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = 96, 128
        for frame in moving_frames(50):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match="cannot be opened"):
        read_frames(tmp_path / "a.mp4")


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips as large as at the default of x264: of smaller ones nothing whole is left when they are cut."""
    monkeypatch.setattr("eventful.video.writer.ENCODER_OPTIONS", {})


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".mp4"])
def test_cut_off_video_yields_what_is_there(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"a{suffix}", 100)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    count, message = read_until_error(path)
    assert 0 < count < 90
    assert f"cut off after {count} frames" in message


@pytest.mark.usefixtures("large")
def test_damaged_video_yields_what_came_before(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 60)
    data = bytearray(path.read_bytes())
    middle = len(data) // 3
    data[middle : middle + 1000] = np.random.default_rng(0).bytes(1000)
    path.write_bytes(data)
    count, message = read_until_error(path)
    assert 0 < count < 60
    assert f"damaged or cut off after {count} frames" in message


@pytest.mark.usefixtures("large")
def test_live_source_leaves_damaged_packets_out(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.ts", 60)
    data = bytearray(path.read_bytes())
    middle = len(data) // 3
    data[middle : middle + 2000] = np.random.default_rng(0).bytes(2000)
    path.write_bytes(data)
    strict, _ = read_until_error(path)
    live = StreamReader(str(path), live=True)
    assert len(list(live)) > strict and live.skipped > 0


def test_image_of_another_size(tmp_path: Path) -> None:
    for k, side in enumerate((8, 8, 9)):
        Image.fromarray(np.zeros((side, 8, 3), np.uint8)).save(tmp_path / f"{k}.png")
    count, message = read_until_error(tmp_path)
    assert count == 2
    assert "2.png is 9x8 (height x width), the images before it are 8x8" in message


def test_unreadable_image(tmp_path: Path) -> None:
    Image.fromarray(moving_frames(1)[0]).save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:200])
    count, message = read_until_error(tmp_path)
    assert count == 1 and "1.png cannot be read" in message


def test_holds_one_frame_at_a_time(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 30)
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0
    for frame in read_frames(path):
        alive.append(weakref.ref(frame))
        most = max(most, sum(ref() is not None for ref in alive))
    assert most <= 2


def test_overlay_marks_cells_boxes_and_header() -> None:
    frame = np.full((480, 640, 3), 60, np.uint8)
    mask = np.zeros((6, 8), bool)
    mask[3, 4] = True
    out = annotate(frame, [{"box": [10, 300, 90, 400], "label": "imp", "score": 0.5}], mask, "header", ["imp"])
    changed = (out != frame).any(-1)
    assert out.shape == frame.shape and (frame == 60).all()
    assert changed[250:310, 330:390].all(), "the chosen cell is tinted"
    assert not changed[350:390, 200:600].any(), "nothing else is"
    assert changed[300:400, 10].all() and not changed[320:390, 20:80].any(), "a box is an outline"
    assert changed[:10].all(), "header"


def test_overlay_enlarges_small_frames_and_shows_rates() -> None:
    frame = np.full((120, 160, 3), 60, np.uint8)
    rates = np.array([[0.0, 0.25], [0.5, 0.0]])
    out = annotate(frame, mask_RC=rates).astype(int)
    assert out.shape == (480, 640, 3)
    tint = [np.abs(out[y, x] - 60).sum() for y, x in ((120, 160), (120, 480), (360, 160))]
    assert tint[0] == 0 < tint[1] < tint[2]


@pytest.mark.parametrize("name", ["2024-05-01T10:30:12.mp4", "cam1:a.mp4", "http:a.mp4"])
def test_colons_in_names_are_no_protocols(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with VideoWriter(Path(name), 10) as writer:
        for _ in range(3):
            writer.write(np.zeros((16, 16, 3), np.uint8))
    assert (tmp_path / name).exists()
    assert len(list(read_frames(name))) == 3


@pytest.mark.parametrize("attached", [True, False])
def test_a_film_is_read_and_not_the_cover_before_it(attached: bool, tmp_path: Path) -> None:
    path = str(tmp_path / "a.mkv")
    with av.open(path, "w") as container:
        cover, film = container.add_stream("mjpeg", rate=10), container.add_stream("libx264", rate=10)
        cover.height, cover.width, cover.pix_fmt = 32, 32, "yuvj420p"
        film.height, film.width, film.pix_fmt = 48, 64, "yuv420p"
        if attached:
            cover.disposition = av.stream.Disposition.attached_pic
        for stream, count in ((cover, 1), (film, 8)):
            for _ in range(count):
                blank = np.zeros((stream.height, stream.width, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(blank, format="rgb24")))
            container.mux(stream.encode())
    frames = list(read_frames(path))
    assert len(frames) == 8 and frames[0].shape == (48, 64, 3)
