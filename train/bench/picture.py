"""Speed-ups as a picture: against what the multiply-accumulates promise, and time against the number of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from train.bench.row import Row
from train.bench.run import Timing
from train.bench.slopes import Slope, slopes
from train.evaluation.plots import canvas, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "frame": "#0072B2",
    "gate/exact": "#D55E00",
    "gate/recompute": "#009E73",
    "gate/paper": "#CC79A7",
    "frame/graph": "#56B4E9",
    "gate/recompute/graph": "#E69F00",
    "frame/graph/threshold": "#F0E442",
}
MARKERS = "os^Dv<>P"

Points = dict[tuple[str, int], list[tuple[int, Timing]]]
"""Number of tokens and times of the cases of each mode and size, by number of tokens."""


def plot_speedups(rows: Sequence[Row], path: Path) -> None:
    """Draws what was timed, if anything was: a marker for each size, a colour for each mode."""
    points: Points = {}
    for row in sorted(rows, key=lambda row: (row.size, row.r)):
        if row.timing is not None:
            points.setdefault((row.mode, row.size), []).append((row.r, row.timing))
    if not points:
        return
    with canvas() as pyplot:
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(15, 6.5), layout="constrained")
        _against_macs(left, points)
        _against_tokens(right, points, slopes(rows))
        write_figure(figure, path)
        pyplot.close(figure)


def _against_macs(axes: Axes, points: Points) -> None:
    sizes = sorted({size for _, size in points})
    for (mode, size), cases in points.items():
        x, y = [timing.macs for _, timing in cases], [timing.speedup[1] for _, timing in cases]
        marker = MARKERS[sizes.index(size) % len(MARKERS)]
        axes.plot(x, y, marker + "-", color=COLOURS[mode], label=f"{mode}, {size} px")
    most = max(timing.macs for cases in points.values() for _, timing in cases)
    axes.plot([1, most], [1, most], "--", color="#8C8C8C", label="time = multiply-accumulates")
    axes.axhline(1, color="#8C8C8C", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="dense over eventful multiply-accumulates of the blocks")
    axes.set(ylabel="speed-up over the fastest dense model", title="Speed-up")
    axes.legend(fontsize="small")


def _against_tokens(axes: Axes, points: Points, found: Sequence[Slope]) -> None:
    lines = {(slope.mode, slope.fixed): slope for slope in found if slope.over == "M"}
    sizes = sorted({size for _, size in points})
    for (mode, size), cases in points.items():
        r, ms = np.array([r for r, _ in cases]), np.array([timing.ms[1] for _, timing in cases])
        label = f"{mode}, {size} px"
        if line := lines.get((mode, size)):
            label += f": {line.start:.0f} + {line.slope:.2f} r"
        axes.plot(r, ms, MARKERS[sizes.index(size) % len(MARKERS)] + "-", color=COLOURS[mode], label=label)
    for size in sizes:
        dense = np.median([t.dense_ms[1] for (_, s), cases in points.items() if s == size for _, t in cases])
        axes.axhline(float(dense), color="#404040", linestyle=":", label=f"dense, {size} px")
    axes.set(xlabel="selected tokens r", ylabel="ms a frame", title="Time, with least-squares lines")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
