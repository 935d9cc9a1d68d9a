"""What a run over a video comes to: speed, compute, fidelity, memory.

A summary holds running sums, and the times of the last compared frames: it does not grow with the run.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import deque
from collections.abc import Mapping

import torch

from eventful.video.frames import FrameReader
from eventful.video.runner import FrameResult

MIB = 2**20

LATEST = 10_000
"""Compared frames whose times are kept for the medians."""


class Summary:
    """Collects frame results; `lines` says what they come to."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.frames = self.flushes = 0
        self._seconds = self._waited = self._ratio = self._flush_ratio = 0.0
        self._compared, self._distance, self._worst = 0, 0.0, 0.0
        self._steady: deque[float] = deque(maxlen=LATEST)
        self._dense: deque[float] = deque(maxlen=LATEST)

    def add(self, result: FrameResult) -> None:
        """Adds a frame."""
        self.frames += 1
        self._seconds += result.seconds
        self._waited += result.waited
        self._ratio += result.macs_ratio
        if result.flush:
            self.flushes += 1
            self._flush_ratio += result.macs_ratio
        if result.dense is not None and not result.flush:
            self._compared += 1
            self._distance += result.dense.distance
            self._worst += result.dense.worst
            self._dense.append(result.dense.seconds)
            self._steady.append(result.seconds)

    def leave_out(self, seconds: float) -> None:
        """Leaves out a pause: what was not waited for the machine is none of its speed."""
        self._started += seconds

    def lines(self, source: FrameReader, beside: Mapping[str, float] | None = None) -> list[str]:
        """The summary, one fact a line.

        Args:
            source: Reader of the frames.
            beside: Seconds of what was done on other threads, by name.
        """
        if not self.frames:
            return ["no frames"]
        elapsed = time.perf_counter() - self._started
        lines = [
            f"{self.frames} frames, {self.frames / elapsed:.1f} frames/s "
            f"(model alone: {1000 * self._seconds / self.frames:.1f} ms a frame)",
            self._time_line(elapsed, beside or {}),
            self._macs_line(),
        ]
        if self._compared:
            lines += self._dense_lines()
        if source.skipped:
            lines.append(f"{source.skipped} damaged packets of the live source were left out")
        if source.reconnections:
            lines.append(f"the live source came back {source.reconnections} times")
        return [*lines, f"peak memory: {peak_memory()}"]

    def _time_line(self, elapsed: float, beside: Mapping[str, float]) -> str:
        """Where the time of a frame goes; what other threads do is hidden unless the model waits for it."""
        all_ms, model_ms, waited_ms = (1000 * s / self.frames for s in (elapsed, self._seconds, self._waited))
        line = (
            f"time of a frame: {all_ms:.1f} ms, of which {waited_ms:.1f} waiting for it, {model_ms:.1f} in the model, "
            f"{all_ms - model_ms - waited_ms:.1f} otherwise"
        )
        parts = [f"{part} {1000 * seconds / self.frames:.1f}" for part, seconds in beside.items()]
        return f"{line}; beside it: {', '.join(parts)}" if parts else line

    def _macs_line(self) -> str:
        everything = self._ratio / self.frames
        steady = self.frames - self.flushes
        if not steady:
            return f"MACs: {everything:.1%} of dense with flush (no frame in steady state)"
        ratio = (self._ratio - self._flush_ratio) / steady
        return f"MACs: {ratio:.1%} of dense in steady state, {everything:.1%} with flush"

    def _dense_lines(self) -> list[str]:
        mean, worst = self._distance / self._compared, self._worst / self._compared
        dense_ms, own_ms = (1000 * statistics.median(times) for times in (self._dense, self._steady))
        return [
            f"distance to the dense model (1 - cosine, {self._compared} frames): "
            f"mean {mean:.3g}, 20 worst tokens {worst:.3g}",
            f"latency: dense {dense_ms:.1f} ms, eventful {own_ms:.1f} ms, {dense_ms / own_ms:.2f} times as fast "
            f"(medians of the {'last ' if self._compared > LATEST else ''}compared frames)",
        ]


def peak_memory() -> str:
    """Peak memory of the process, and of the GPU if one is in use."""
    parts = []
    if sys.platform != "win32":
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # macOS counts bytes, Linux KiB.
        parts.append(f"{peak / (MIB if sys.platform == 'darwin' else 1024):.0f} MiB")
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        parts.append(f"{torch.cuda.max_memory_allocated() / MIB:.0f} MiB on the GPU")
    return ", ".join(parts) or "not reported by this system"
