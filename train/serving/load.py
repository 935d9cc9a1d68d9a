"""`python -m train.serving`: how a server of many cameras holds on this machine.

Simulated cameras walk back and forth through clips, each at a frame rate of its own, and stay for a while: whoever
leaves is replaced by a new one. It says how long frames took, how many were dropped, and whether memory grew.
"""

from __future__ import annotations

import gc
import heapq
import json
import random
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

import eventful
import policies
from eventful import cli
from eventful.checks.ranges import SEED, THREADS, setting
from eventful.console.output import say
from eventful.devices import device_named
from eventful.disk.replaced import replace_text
from eventful.errors import UserError
from eventful.serving import CameraServer, Counts
from eventful.tasks import load_task, saliency_of
from eventful.video.frames import Frame
from train.bench.memory import resident_bytes
from train.config import load_config

COMMAND = "python -m train.serving"


@dataclass
class LoadConfig:
    """How a server of many cameras holds on this machine.

    Attributes:
        cameras: Number of cameras at any time.
        rates: Least and greatest frame rate of a camera, in frames per second; each draws its own.
        stay: Mean number of seconds for which a camera stays.
        minutes: Length of the test.
        policy: Folder of a policy, or name of an installed one.
        task: Task with model and footage.
        task_options: Options of the task.
        split: Split of the task whose clips cameras show.
        budget: Share of the dense MACs; the policy's own if null.
        depth: Frames of a camera that may wait.
        batch: Largest number of cameras in one forward pass.
        device: Device of the model.
        threads: Number of CPU threads; torch's own choice if 0.
        seed: Seed of rates, clips and stays.
        out: Folder for serving.json.

    Examples:
        python -m train.serving minutes=10 out=runs/serving
        python -m train.serving cameras=8 'rates=[5,5]' budget=0.05
    """

    cameras: int = setting(32, "[1, 1e5]")
    rates: list[float] = field(default_factory=lambda: [5.0, 30.0])
    stay: float = setting(30.0, "[0.1, 1e6]")
    minutes: float = setting(1.0, "(0, 1e5]")
    policy: str = "doom"
    task: str = "doom"
    task_options: dict[str, Any] = field(default_factory=dict)
    split: str = "test"
    budget: float | None = setting(None, "(0, 1]")
    depth: int = setting(1, "[1, 1e4]")
    batch: int = setting(1, "[1, 1e4]")
    device: str = "cpu"
    threads: int = setting(0, THREADS)
    seed: int = setting(0, SEED)
    out: str = "runs/serving"


@dataclass(frozen=True)
class Interval:
    """What a tenth of the test came to.

    Attributes:
        seconds: When it ended, since the start.
        frames: Frames served.
        latency_ms: Median, 90th and 99th percentile of the time from handing in to the result.
        macs: Mean share of the dense MACs.
        resident_mb: Resident memory of the process at its end.
    """

    seconds: float
    frames: int
    latency_ms: tuple[float, float, float]
    macs: float
    resident_mb: float


@dataclass(frozen=True)
class LoadResult:
    """What the test came to.

    Attributes:
        config: Settings.
        joined: Cameras that were there, one after the other.
        asked: Frames per second that they sent.
        frames: Frames per second that were served.
        waited_ms: Median, 90th and 99th percentile of the time until the work began.
        latency_ms: The same of the time until the result.
        counts: What has become of frames.
        waiting: Frames that waited at the end.
        intervals: The test in tenths.
    """

    config: dict[str, Any]
    joined: int
    asked: float
    frames: float
    waited_ms: tuple[float, float, float]
    latency_ms: tuple[float, float, float]
    counts: Counts
    waiting: int
    intervals: list[Interval]

    @property
    def lost(self) -> int:
        """Frames that were neither served nor counted as dropped, nor wait: none should be."""
        return self.counts.received - self.counts.served - self.counts.dropped - self.waiting

    def lines(self) -> list[str]:
        """The result as text."""
        latency = "{:.0f}, {:.0f}, {:.0f}".format(*self.latency_ms)
        waited = "{:.0f}, {:.0f}, {:.0f}".format(*self.waited_ms)
        first, last = self.intervals[1 if len(self.intervals) > 1 else 0], self.intervals[-1]
        counts = self.counts
        return [
            f"{self.joined} cameras in turn; {self.asked:.1f} frames/s sent, {self.frames:.1f} served",
            f"{counts.received} frames: {counts.served} served, {counts.dropped} dropped because a newer one came or "
            f"their camera left, {self.waiting} waiting, {self.lost} unaccounted for",
            f"latency, ms (median, 90 %, 99 %): {latency}, of which waiting {waited}",
            f"memory: {first.resident_mb:.0f} MB after the first tenths, {last.resident_mb:.0f} MB at the end",
        ]


class Cameras:
    """Simulated cameras, driven by one thread.

    Args:
        config: Settings.
        clips: Frames of each clip.
        server: Where frames are handed in.
    """

    def __init__(self, config: LoadConfig, clips: Sequence[Sequence[Frame]], server: CameraServer) -> None:
        self._config, self._clips, self._server = config, clips, server
        self._random = random.Random(config.seed)
        self.joined = 0

    def run(self, stopped: threading.Event) -> None:
        """Hands in frames when they are due, until the event is set."""
        due: list[tuple[float, int, float, float, int]] = []
        start = perf_counter()
        for _ in range(self._config.cameras):
            self._join(due, start + self._random.random())
        while not stopped.is_set():
            at, camera, rate, until, k = heapq.heappop(due)
            if stopped.wait(max(at - perf_counter(), 0)):
                return
            clip = self._clips[camera % len(self._clips)]
            last = len(clip) - 1
            self._server.hand_in(camera, clip[last - abs(last - k % (2 * last))])
            if at < until:
                heapq.heappush(due, (at + 1 / rate, camera, rate, until, k + 1))
            else:
                self._server.leave(camera)
                self._join(due, at + 1 / rate)

    def _join(self, due: list[tuple[float, int, float, float, int]], at: float) -> None:
        until = at + self._random.expovariate(1 / self._config.stay)
        heapq.heappush(due, (at, self.joined, self._random.uniform(*self._config.rates), until, 0))
        self.joined += 1


def load_test(config: LoadConfig) -> LoadResult:
    """Runs the cameras against a server.

    Raises:
        UserError: If the pieces do not fit together.
    """
    if len(config.rates) != 2 or not 0 < config.rates[0] <= config.rates[1]:
        raise UserError(f"rates are the least and the greatest, such as [5, 30], got {config.rates}")
    if config.threads:
        torch.set_num_threads(config.threads)
    task = load_task(config.task, **config.task_options)
    with cli.user_input(f"policy {config.policy}"):
        policy = policies.load(config.policy)
    if config.budget is not None:
        policy.budget = config.budget
    options = {"saliency": saliency_of(task), **policy.provenance.options}
    model = eventful.wrap(task.model, policy, **options).to(device_named(config.device))
    clips = [[frame.numpy() for frame in clip.frames_THWC] for clip in task.clips(config.split) if len(clip) > 1]
    if not clips:
        raise UserError(f"task {config.task} has no clips of two frames or more in split {config.split!r}")
    server, stopped = CameraServer(model, task.preprocess, config.depth, config.batch), threading.Event()
    cameras = Cameras(config, clips, server)
    thread = threading.Thread(target=cameras.run, args=(stopped,), name="cameras", daemon=True)
    start = perf_counter()
    thread.start()
    try:
        intervals, waited, latency = _watch(server, stopped, start, 60 * config.minutes)
    finally:
        stopped.set()
        thread.join()
    elapsed, counts = perf_counter() - start, server.counts
    return LoadResult(
        config=asdict(config),
        joined=cameras.joined,
        asked=counts.received / elapsed,
        frames=counts.served / elapsed,
        waited_ms=_percentiles(waited),
        latency_ms=_percentiles(latency),
        counts=counts,
        waiting=server.waiting,
        intervals=intervals,
    )


def _watch(
    server: CameraServer, stopped: threading.Event, start: float, seconds: float
) -> tuple[list[Interval], list[float], list[float]]:
    """Serves for so many seconds; the tenths, and of all frames the times until work began and until the result."""
    intervals: list[Interval] = []
    waited: list[float] = []
    latency: list[float] = []
    macs: list[float] = []
    for served in server.serve_until(stopped):
        waited.append(served.waited)
        latency.append(served.latency)
        macs.append(served.macs_ratio)
        now = perf_counter() - start
        if now >= (len(intervals) + 1) * seconds / 10:
            gc.collect()
            part = latency[-len(macs) :]
            intervals.append(
                Interval(now, len(macs), _percentiles(part), float(np.mean(macs)), resident_bytes("VmRSS") / 1e6)
            )
            say(f"{now:.0f} s: {len(macs)} frames, median {intervals[-1].latency_ms[0]:.0f} ms")
            macs.clear()
        if now >= seconds:
            stopped.set()
    return intervals, waited, latency


def _percentiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    median, most, nearly_all = np.percentile(1e3 * np.array(seconds), [50, 90, 99])
    return float(median), float(most), float(nearly_all)


def _main(argv: Sequence[str]) -> None:
    config = load_config(LoadConfig, argv, COMMAND)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    result = load_test(config)
    replace_text(out / "serving.json", json.dumps({**asdict(result), "lost": result.lost}, indent=2) + "\n")
    print("\n".join(result.lines()))
    say(f"written to {out}: serving.json")


def main() -> None:
    """Console entry point."""
    cli.run(COMMAND, _main)
