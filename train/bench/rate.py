"""Whether a frame rate is held on this machine while a real load comes and goes.

    python -m train.bench.rate video=clip.mp4 fps=30

One core runs the model, as `eventful-infer --fps` does. After some seconds a process that does nothing but count is
pinned to the same core, and after as many again it is ended. Every window of two seconds is judged, but for those that
begin less than a second after a phase does. The same frames are then run once more at the budgets of the first run,
beside the dense model, for the quality that was bought.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from eventful import cli
from eventful.checks.ranges import setting
from eventful.errors import UserError
from eventful.infer.on_video import prepare, run_frames
from eventful.live.pace import SETTLING, TOLERANCE, WINDOW, Pace, window_rates
from eventful.pipeline.heap import settle_heap
from eventful.video.frames import Frame, FrameReader
from eventful.video.reader import read_frames
from eventful.video.runner import FrameResult
from train.config import load_config
from train.evaluation.tables import markdown

COMMAND = "python -m train.bench.rate"
PHASES = ("alone", "beside the load", "alone again")

BUSY = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True:\n    pass\n"

STOPPED = 0.4
"""Seconds without a frame after which somebody else has stopped this process, and the run says nothing."""


@dataclass
class RateConfig:
    """Whether a frame rate is held while a load comes and goes.

    Attributes:
        video: Video to run on, forwards and backwards without end.
        policy: Policy with a budget: a folder, or the name of an installed one.
        fps: Frames per second to hold.
        seconds: Length of each of three phases: alone, beside the load, alone again.
        core: Number of the core that all of it shares.
        loads: Number of busy processes.
        dense_every: Number of frames from one comparison with the dense model to the next, in the second run.
        tries: Number of runs at most, where others stop this process.

    Examples:
        python -m train.bench.rate video=clip.mp4 fps=30
    """

    video: str = "???"
    policy: str = "doom"
    fps: float = setting(30.0, "(0, 1000]")
    seconds: float = setting(8.0, "[4, 600]")
    core: int = setting(0, "[0, 1023]")
    loads: int = setting(1, "[1, 64]")
    dense_every: int = setting(4, "[1, 1000]")
    tries: int = setting(3, "[1, 100]")


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        ends: Seconds from the end of the first frame, which is a flush, to the end of each frame after it.
        budgets: Asked share of the dense MACs in these frames.
        shares: Realised share in them.
    """

    ends: list[float]
    budgets: list[float]
    shares: list[float]

    @property
    def stopped(self) -> float:
        """Longest time without a frame, in seconds."""
        return max(b - a for a, b in itertools.pairwise([0.0, *self.ends]))


class _ToAndFro(FrameReader):
    """Frames of a video forwards and backwards, so that nothing jumps, for as long as somebody takes them."""

    def __init__(self, frames: Sequence[Frame], fps: float, source: str) -> None:
        self._frames, self.fps, self.source, self.count = frames, fps, source, None

    def __iter__(self) -> Iterator[Frame]:
        return itertools.cycle([*self._frames, *self._frames[-2:0:-1]])


@contextmanager
def busy(core: int, processes: int) -> Iterator[None]:
    """Processes that keep a core busy."""
    command = [sys.executable, "-c", BUSY, str(core)]
    started = [subprocess.Popen(command) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def paced_run(results: Iterator[FrameResult], config: RateConfig) -> Run:
    """Takes frames for three phases, with the load in the second one."""
    next(results)
    started = time.perf_counter()
    run = Run([], [], [])

    def until(end: float) -> None:
        for result in results:
            run.ends.append(time.perf_counter() - started)
            run.budgets.append(float(result.budget or 0.0))
            run.shares.append(result.macs_ratio)
            if run.ends[-1] >= end:
                return

    until(config.seconds)
    with busy(config.core, config.loads):
        until(2 * config.seconds)
    until(3 * config.seconds)
    return run


def rate_table(config: RateConfig) -> str:
    """Runs, replays, and returns the table, Markdown.

    Raises:
        UserError: If there is no such core, the video has too few frames, the policy has no budget, or this process was
            stopped in all tries.
    """
    _settle_on(config.core)
    reader = read_frames(config.video)
    frames = list(reader)
    if len(frames) < 2:
        raise UserError(f"video={config.video}: at least two frames are needed")
    source = _ToAndFro(frames, reader.fps, config.video)
    for _ in range(config.tries):
        pace = Pace(config.fps)
        runner = prepare(config.policy, device="cpu")
        settle_heap()
        run = paced_run(run_frames(source, runner, pace=pace), config)
        if run.stopped < STOPPED:
            break
        print(f"no frame for {run.stopped:.1f} s: somebody stopped this process; once more", file=sys.stderr)
    else:
        raise UserError(f"this process was stopped in each of {config.tries} runs; try again on a machine of its own")
    return _table(run, _distances(source, run, config), config)


def _settle_on(core: int) -> None:
    if not hasattr(os, "sched_setaffinity"):
        raise UserError("processes can be pinned to a core on Linux only")
    if core not in (there := os.sched_getaffinity(0)):
        raise UserError(f"core={core}: this process may run on {', '.join(map(str, sorted(there)))}")
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)


def _distances(source: FrameReader, run: Run, config: RateConfig) -> dict[int, float]:
    """Distance to the dense model by frame, from a second run at the same budgets."""
    runner = prepare(config.policy, device="cpu", dense_every=config.dense_every)
    schedule = [(0, run.budgets[0]), *((k + 1, budget) for k, budget in enumerate(run.budgets))]
    again = list(itertools.islice(run_frames(source, runner, schedule), 1, len(run.ends) + 1))
    if any(abs(result.macs_ratio - share) > 1e-9 for result, share in zip(again, run.shares, strict=True)):
        raise RuntimeError("the second run took other decisions than the first one")
    return {k: result.dense.distance for k, result in enumerate(again) if result.dense is not None}


def _table(run: Run, distances: dict[int, float], config: RateConfig) -> str:
    rows, held, windows = [], 0, 0
    for number, phase in enumerate(PHASES):
        first, last = number * config.seconds + SETTLING, (number + 1) * config.seconds
        rates = window_rates(run.ends, first, last)
        inside = sum(abs(rate / config.fps - 1) <= TOLERANCE for rate in rates)
        held, windows = held + inside, windows + len(rates)
        these = [k for k, end in enumerate(run.ends) if first <= end <= last]
        quality = statistics.median(distances[k] for k in these if k in distances)
        rows.append(
            [phase, f"{min(rates):.1f} to {max(rates):.1f}", f"{inside} of {len(rates)}"]
            + [f"{statistics.median(values[k] for k in these):.1%}" for values in (run.budgets, run.shares)]
            + [f"{sum(run.budgets[k] == 1 for k in these) / len(these):.0%}", f"{quality:.4f}"]
        )
    heads = [
        "phase",
        "frames/s in windows",
        f"within {TOLERANCE:.0%}",
        "median budget",
        "median share",
        "frames at the whole budget",
        "median distance",
    ]
    median = statistics.median(distances.values())
    return (
        f"{markdown(heads, rows)}\n\n{config.fps:g} frames/s asked; held within {TOLERANCE:.0%} in {held} of {windows} "
        f"windows of {WINDOW:g} s; median distance to the dense model {median:.4f}"
    )


def _main(argv: Sequence[str]) -> None:
    print(rate_table(load_config(RateConfig, argv, COMMAND)))


if __name__ == "__main__":
    cli.run(COMMAND, _main)
