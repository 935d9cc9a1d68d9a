"""Live sources that drop, fall silent or change their size: come back to, flushed, or given up with one line."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import timm
import torch

import policies
from envs.distill import Distillation
from eventful.errors import UserError, VideoError
from eventful.infer import prepare, run_frames
from eventful.infer.compare import Comparison
from eventful.live.reconnect import ReconnectingReader, reconnecting
from eventful.video import opening
from eventful.video.frames import Frame, FrameReader, Tubelet, in_tubelets
from eventful.video.reader import read_frames


class Takes(FrameReader):
    """A source that gives some frames each time it is opened, then breaks."""

    live = True

    def __init__(self, frames: Sequence[Frame], problem: str = "broken") -> None:
        self.source, self.fps, self.count = "cam", 10.0, None
        self._frames, self._problem = frames, problem

    def __iter__(self) -> Iterator[Frame]:
        yield from self._frames
        if self._problem:
            raise VideoError(self._problem)


def shot(value: int, size: int = 64) -> Frame:
    return np.full((size, size, 3), value, np.uint8)


def opener(takes: list[Any]) -> Any:
    def reopen() -> FrameReader:
        take = takes.pop(0) if takes else VideoError("refused")
        if isinstance(take, VideoError):
            raise take
        return take

    return reopen


def test_connections_follow_each_other_and_times_ascend() -> None:
    takes = [VideoError("refused"), Takes([shot(2), shot(3)], ""), Takes([]), Takes([shot(4, 32)])]
    reader = ReconnectingReader(Takes([shot(1)]), opener(takes), patience=0.5, first_wait=0.01)
    seen: list[tuple[int, float]] = []
    with pytest.raises(VideoError, match=r"cam has been gone for \d+ s: refused"):
        for frame, seconds in reader.timed():
            seen.append((int(frame[0, 0, 0]), seconds))
    assert [value for value, _ in seen] == [1, 2, 3, 4]
    assert all(a < b for (_, a), (_, b) in pairwise(seen))
    assert (reader.reconnections, reader.cuts) == (3, 3)
    assert isinstance(reader.origin, Takes) and reader.origin.source == "cam", "whose sound is asked for"


def test_what_is_stored_or_to_stop_is_left_alone() -> None:
    stored = Takes([shot(1)])
    stored.live = False
    assert reconnecting(lambda: stored, "flush") is stored
    live = Takes([shot(1)])
    assert reconnecting(lambda: live, "stop") is live
    with pytest.raises(UserError, match="on_error must be one of stop, flush, skip, got 'retry'"):
        reconnecting(lambda: live, "retry")  # type: ignore[arg-type]


@pytest.mark.parametrize(("on_error", "flushes"), [("flush", [0, 2]), ("skip", [0])])
def test_the_model_is_flushed_where_it_is_asked_for(on_error: Any, flushes: list[int]) -> None:
    torch.manual_seed(0)
    task = Distillation(timm.create_model("test_vit", img_size=(64, 64), num_classes=0))
    runner = prepare(policies.TopR(3), task, device="cpu")
    takes = [Takes([shot(90), shot(91)])]
    reader = ReconnectingReader(Takes([shot(10), shot(11)]), opener(takes), on_error, patience=0.3, first_wait=0.01)
    results = []
    with pytest.raises(VideoError):
        for result in run_frames(reader, runner):
            results.append(result)
    assert [result.index for result in results if result.flush] == flushes and len(results) == 4
    if on_error == "flush":
        dense = runner.model.vit(task.preprocess(torch.from_numpy(shot(90))[None]))
        torch.testing.assert_close(results[2].outputs, dense, atol=1e-4, rtol=1e-4)


def test_all_policies_of_a_comparison_are_flushed() -> None:
    torch.manual_seed(0)
    runner = prepare(policies.TopR(3), Distillation(timm.create_model("test_vit", img_size=(64, 64))), device="cpu")
    takes = [Takes([shot(90), shot(91)])]
    reader = ReconnectingReader(Takes([shot(10), shot(11)]), opener(takes), patience=0.3, first_wait=0.01)
    seen = []
    with pytest.raises(VideoError):
        for results in Comparison(runner, ["top-r", "nothing"], 0.4).run(reader):
            seen.append([result.flush for result in results.values()])
    assert seen == [[True, True], [False, False], [True, True], [False, False]]


def test_no_tubelet_reaches_over_a_cut() -> None:
    takes = [Takes([shot(4), shot(5)])]
    reader = ReconnectingReader(Takes([shot(k) for k in (1, 2, 3)]), opener(takes), patience=0.3, first_wait=0.01)
    tubelets, cuts = [], []
    pairs = in_tubelets(reader, Tubelet(2))
    with pytest.raises(VideoError):
        for pair in pairs:
            tubelets.append((int(pair[0, 0, 0]), int(pair[64, 0, 0])))
            cuts.append(pairs.cuts)
    assert tubelets == [(1, 2), (4, 5)] and cuts == [0, 1]
    assert (pairs.reconnections, pairs.skipped) == (1, 0)


SERVER = """
import sys, time, av, numpy as np
for value in (60, 60, 200, 200, 200, 200):
    try:
        with av.open(f"{sys.argv[1]}?listen=1", "w", format="mpegts") as sender:
            stream = sender.add_stream("mpeg2video", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for _ in range(10):
                picture = np.full((48, 64, 3), value, np.uint8)
                sender.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            sender.mux(stream.encode(None))
    except OSError:
        pass  # Whoever reads looks first, and goes.
    time.sleep(0.6)
"""


def connected(address: str) -> ReconnectingReader:
    """A reader of a server that may still be starting."""
    first, deadline = None, time.monotonic() + 60
    while first is None and time.monotonic() < deadline:
        try:
            first = read_frames(address)
        except VideoError:
            time.sleep(0.05)
    assert first is not None and first.live
    return ReconnectingReader(first, lambda: read_frames(address), patience=30, first_wait=0.1)


def test_a_server_that_is_stopped_and_started() -> None:
    """MPEG-TS over TCP, by FFmpeg on both ends; between two connections nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    with subprocess.Popen([sys.executable, "-c", SERVER, address]) as server:
        reader = connected(address)
        values = []
        for frame in reader:
            values.append(float(frame.mean()))
            if values[-1] > 150:
                break
        server.kill()
    assert abs(values[0] - 60) < 8 and abs(values[-1] - 200) < 8
    assert reader.reconnections >= 1 and reader.cuts == reader.reconnections


SILENT = """
import sys, time, av, numpy as np
value = 60
while True:
    try:
        with av.open(sys.argv[1], "w", format="mpegts") as sender:
            stream = sender.add_stream("mpeg2video", rate=25)
            stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 5
            for _ in range(100):
                picture = np.full((48, 64, 3), value, np.uint8)
                sender.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                time.sleep(0.02)
            time.sleep(4)
        value = 200
    except OSError:
        time.sleep(0.1)
"""


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
def test_a_camera_that_stalls(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps its connection and sends nothing, or there is none to keep."""
    monkeypatch.setattr(opening, "STREAM_TIMEOUT_S", 1.0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"{scheme}://127.0.0.1:{probe.getsockname()[1]}"
    listens = f"{address}?listen=1" if scheme == "tcp" else address
    with subprocess.Popen([sys.executable, "-c", SILENT, listens]) as sender:
        reader = connected(address)
        last = 0.0
        for frame in reader:
            last = float(frame.mean())
            if last > 150:
                break
        sender.kill()
    assert abs(last - 200) < 8 and reader.reconnections >= 1
