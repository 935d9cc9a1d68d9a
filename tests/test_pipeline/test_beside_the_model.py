"""Frames read ahead are the reader's own; work done behind is done in order, once, and its errors are told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from eventful.errors import VideoError
from eventful.pipeline.read_ahead import AHEAD, ReadAhead, read_ahead
from eventful.pipeline.write_behind import BEHIND, WriteBehind, spare_processor
from eventful.video.frames import Frame, FrameReader, TimedFrame
from eventful.video.reader import read_frames
from eventful.video.writer import VideoWriter


class Counting(FrameReader):
    """Frames whose pixels are their numbers; cuts before every third one; breaks at the end if asked."""

    source, fps, count = "numbers", 10.0, None

    def __init__(self, frames: int, fault: Exception | None = None) -> None:
        self._frames, self._fault = frames, fault
        self.given, self.closed = 0, False

    def __iter__(self) -> Iterator[Frame]:
        return (frame for frame, _ in self.timed())

    def timed(self) -> Iterator[TimedFrame]:
        try:
            for k in range(self._frames):
                self.cuts += k > 0 and k % 3 == 0
                self.given += 1
                yield TimedFrame(np.full((2, 2, 3), k, dtype=np.uint8), k / self.fps)
            if self._fault is not None:
                raise self._fault
        finally:
            self.closed = True


def test_frames_times_and_cuts_are_those_of_the_reader() -> None:
    reader = ReadAhead(Counting(10))
    found = [(int(frame[0, 0, 0]), time, reader.cuts) for frame, time in reader.timed()]
    # The reader itself is ahead: its number of cuts belongs to a later frame.
    assert found == [(k, k / 10, k // 3) for k in range(10)]


def test_a_video_comes_out_the_same(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 10) as writer:
        for k in range(7):
            writer.write(np.full((32, 32, 3), 30 * k, dtype=np.uint8))
    plain, ahead = list(read_frames(path).timed()), list(read_ahead(read_frames(path)).timed())
    assert [time for _, time in ahead] == [time for _, time in plain]
    assert all(np.array_equal(a.frame, b.frame) for a, b in zip(ahead, plain, strict=True))


def test_an_error_comes_after_the_frames_before_it() -> None:
    frames = ReadAhead(Counting(4, VideoError("broken"))).timed()
    assert [int(next(frames).frame[0, 0, 0]) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(VideoError, match="broken"):
        next(frames)


def test_whoever_stops_early_stops_the_reading() -> None:
    source, before = Counting(10_000), set(threading.enumerate())
    frames = ReadAhead(source).timed()
    next(frames)
    assert "read ahead" in {thread.name for thread in set(threading.enumerate()) - before}
    frames.close()  # type: ignore[attr-defined]
    assert source.closed and source.given <= AHEAD + 3
    assert not set(threading.enumerate()) - before


def test_live_sources_are_read_as_they_come() -> None:
    source = Counting(3)
    source.live = True
    assert read_ahead(source) is source


@pytest.mark.parametrize("threaded", [False, True])
def test_work_is_done_in_order_and_finished_on_the_way_out(threaded: bool) -> None:
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt), WriteBehind(threaded) as behind:
        for k in range(10):
            behind.do(lambda k=k: done.append(k))  # type: ignore[misc]
        raise KeyboardInterrupt
    assert done == list(range(10))


def test_work_runs_beside_the_caller_but_no_more_than_a_little_behind() -> None:
    go, started = threading.Event(), threading.Semaphore(0)
    waiting: list[int] = []

    def work() -> None:
        started.release()
        go.wait(10)

    def hand_in(behind: WriteBehind) -> None:
        for k in range(BEHIND + 2):
            behind.do(work)
            waiting.append(k)

    with WriteBehind(threaded=True) as behind:
        behind.do(work)
        assert started.acquire(timeout=10)
        thread = threading.Thread(target=hand_in, args=(behind,))
        thread.start()
        thread.join(0.2)
        assert waiting == list(range(BEHIND))
        go.set()
        thread.join(10)
    assert len(waiting) == BEHIND + 2


@pytest.mark.parametrize("threaded", [False, True])
def test_an_error_reaches_the_caller_once_and_ends_the_work(threaded: bool) -> None:
    done: list[int] = []

    def fail() -> None:
        raise VideoError("disk full")

    with pytest.raises(VideoError, match="disk full"), WriteBehind(threaded) as behind:
        behind.do(fail)
        for k in range(BEHIND + 5):
            behind.do(lambda k=k: done.append(k))  # type: ignore[misc]
    assert done == []


def test_an_error_of_the_last_piece_is_not_lost() -> None:
    def fail() -> None:
        raise VideoError("disk full")

    with pytest.raises(VideoError, match="disk full"), WriteBehind(threaded=True) as behind:
        behind.do(fail)


def test_a_processor_is_spare_where_the_model_leaves_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1}, raising=False)
    for threads, spare in ((1, True), (2, False)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert spare_processor(torch.device("cpu")) is spare
        assert spare_processor(torch.device("cuda:0"))
