"""Pictures of an evaluation: quality against compute, and what each gate selects.

Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart; lines are labelled directly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eventful.disk.replaced import replace_file
from policies.protocol import BLOCK_GATES
from train.evaluation.comparison import Comparison, FrontierPoint, Measure
from train.evaluation.contenders import Contender

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CAPTION = (
    "Each line is a rule that chooses which image patches are computed anew in each frame; "
    "for all others, earlier results are used again.\n"
    "Shaded: 95 % intervals, from a bootstrap over clips, of what is lost against the dense model. "
    "Differences between rules have their own intervals (differences.md)."
)

_RATED = ("Learned", "LearnedTop", "SaliencyThreshold", "CalibratedThreshold", "GlobalTopR", "TopR")
"""Policies whose rates by gate are worth a picture."""

_LEADER: dict[str, Any] = {"arrowstyle": "-", "linewidth": 0.8, "shrinkA": 2, "shrinkB": 5, "relpos": (1.0, 0.5)}
"""The thin line from a label's right end to what it names."""

_FLAT = ("LearnedTop", "TopR")
"""Policies that select the same number of tokens at every gate."""


@dataclass(frozen=True)
class Style:
    """How a contender is drawn."""

    colour: str
    marker: str
    width: float = 1.8


STYLES = {
    "Learned": Style("#D55E00", "o", 3.2),
    "LearnedTop": Style("#E69F00", "D", 3.2),
    "SaliencyThreshold": Style("#0072B2", "h", 2.6),
    "SaliencyTopR": Style("#009E73", "p", 2.6),
    "SaliencyOrSurprise": Style("#CC79A7", "H", 2.6),
    "CalibratedThreshold": Style("#0072B2", "s"),
    "KeySimilarity": Style("#B8860B", "<"),
    "GlobalTopR": Style("#56B4E9", "v"),
    "TopR": Style("#009E73", "^"),
    "Threshold": Style("#CC79A7", "P"),
    "Random": Style("#8C8C8C", "x"),
    "Periodic": Style("#404040", "+"),
    "Oracle": Style("#000000", "1"),
    "PricedOracle": Style("#000000", "2"),
}


def style_of(contender: Contender) -> Style:
    """Policies from elsewhere have one style."""
    return STYLES.get(contender.name, Style("#000000", "*"))


def plot_frontier(comparison: Comparison, title: str, path: Path) -> None:
    """Writes `frontier.png`: the task's metric and the distance, or the two distances for tasks without labels."""
    with canvas() as pyplot:
        figure, panels = pyplot.subplots(1, 2, figsize=(15, 7), layout="constrained")
        for axes, measure in zip(panels, comparison.measures[:2], strict=True):
            _frontier_panel(axes, comparison, measure)
        figure.suptitle(title, fontweight="bold")
        figure.supxlabel(_CAPTION, fontsize="small", color="#444444")
        write_figure(figure, path)
        pyplot.close(figure)


def plot_rates(comparison: Comparison, path: Path) -> bool:
    """Writes `rates.png`: share of the tokens that each gate selects, by block; False if no rate differs by gate."""
    shown = [c for c in comparison.lines if c.name in _RATED and c.granularity == "gate"]
    if all(contender.name in _FLAT for contender in shown):
        return False
    budgets = comparison.budgets
    with canvas() as pyplot:
        size = (2.5 + 3.6 * len(budgets), 8.5)
        figure, panels = pyplot.subplots(
            len(BLOCK_GATES), len(budgets), figsize=size, layout="constrained", sharex=True, sharey="col", squeeze=False
        )
        for column, budget in enumerate(budgets):
            for row, kind in enumerate(BLOCK_GATES):
                axes = panels[row, column]
                for contender in shown:
                    _rates_line(axes, comparison, contender, budget, row)
                axes.set_ylim(bottom=0)
                axes.yaxis.set_major_formatter(_percent)
                if not row:
                    axes.set_title(f"at {100 * budget:g} % of the compute")
                if not column:
                    axes.set_ylabel(f"{kind} gate:\ntokens updated")
                if row == len(BLOCK_GATES) - 1:
                    axes.set_xlabel("block")
                    axes.xaxis.get_major_locator().set_params(integer=True)
        figure.suptitle("What each gate updates, from the first block to the last", fontweight="bold")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(shown))
        write_figure(figure, path)
        pyplot.close(figure)
    return True


def _frontier_panel(axes: Axes, comparison: Comparison, measure: Measure) -> None:
    from matplotlib.ticker import LogLocator

    ends: dict[Contender, tuple[float, float]] = {}
    for contender in sorted(comparison.lines, key=lambda c: c.learned):
        ends[contender] = _line(axes, comparison, contender, measure)
    axes.set_xscale("log")
    if measure.id == "metric":
        dense = comparison.end("All").quality["metric"].value
        axes.axhline(dense, color="black", linestyle=(0, (6, 3)), linewidth=1.4, zorder=1)
        axes.annotate(
            f"dense model, all of the compute: {dense:.3f}",
            (0.995, dense),
            xycoords=("axes fraction", "data"),
            xytext=(0, 5),
            textcoords="offset points",
            ha="right",
        )
    else:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(lambda value, position: f"{value:g}")
    _share_axis(axes, comparison)
    better = "higher" if measure.higher_is_better else "lower"
    axes.set_title(f"{measure.title} ({better} is better)")
    axes.set_ylabel(measure.axis)
    _direct_labels(axes, {c.label: (*ends[c], style_of(c).colour, c.learned) for c in ends})


def _line(axes: Axes, comparison: Comparison, contender: Contender, measure: Measure) -> tuple[float, float]:
    """Draws a frontier with its band; returns its leftmost point."""
    points = sorted(comparison.points(contender), key=lambda point: point.share.value)
    style = style_of(contender)
    share = [point.share.value for point in points]
    quality = [point.quality[measure.id].value for point in points]
    bands = [_band(comparison, point, measure) for point in points]
    axes.fill_between(
        share,
        [low for low, _ in bands],
        [high for _, high in bands],
        color=style.colour,
        alpha=0.18 if contender.learned else 0.07,
        linewidth=0,
    )
    axes.plot(
        share,
        quality,
        color=style.colour,
        marker=style.marker,
        linewidth=style.width,
        linestyle="--" if contender.visitor else "-",
        markersize=9 if contender.learned else 7,
        markeredgewidth=2 if style.marker in "x+" else 0.5,
        zorder=3 if contender.learned else 2,
    )
    return share[0], quality[0]


def _band(comparison: Comparison, point: FrontierPoint, measure: Measure) -> tuple[float, float]:
    """The interval to draw: for a metric, of its difference from the dense model's, whose line has none."""
    if measure.id == "metric" and point.above_dense is not None:
        dense = comparison.end("All").quality["metric"].value
        return dense + point.above_dense.low, dense + point.above_dense.high
    return point.quality[measure.id].low, point.quality[measure.id].high


def _share_axis(axes: Axes, comparison: Comparison) -> None:
    """Ticks at the budgets, and room for the labels on the left."""
    shares = [p.share.value for c in comparison.lines for p in comparison.points(c)]
    low, high = np.log(min(shares)), np.log(max(shares))
    width = max(high - low, 0.5)
    axes.set_xlim(np.exp(low - 0.62 * width), np.exp(high + 0.06 * width))
    axes.set_xticks(comparison.budgets, [f"{100 * budget:g} %" for budget in comparison.budgets])
    axes.minorticks_off()
    axes.set_xlabel("compute per frame, share of the dense model (log scale)")
    axes.grid(True, color="#E4E4E4")
    axes.set_axisbelow(True)


def _direct_labels(axes: Axes, ends: Mapping[str, tuple[float, float, str, bool]]) -> None:
    """Names the lines at their left ends, moved apart where they would overlap."""
    figure: Any = axes.figure
    figure.canvas.draw()
    places = {name: axes.transData.transform((x, y)) for name, (x, y, *_) in ends.items()}
    left, bottom = axes.transAxes.transform((0, 0))
    right, top = axes.transAxes.transform((1, 1))
    gap = 17 * figure.dpi / 72
    heights = spread([float(place[1]) for place in places.values()], gap, bottom + gap / 2, top - gap / 2)
    edge = min(float(place[0]) for place in places.values()) - 0.06 * (right - left)
    for (name, place), height in zip(places.items(), heights, strict=True):
        _, _, colour, learned = ends[name]
        axes.annotate(
            name,
            tuple(axes.transData.inverted().transform(place)),
            xytext=tuple(axes.transAxes.inverted().transform((edge, height))),
            textcoords="axes fraction",
            ha="right",
            va="center",
            color=colour,
            fontweight="bold" if learned else "normal",
            arrowprops=_LEADER | {"color": colour},
        )


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones, in their order, at least a gap apart, within the limits if there is room."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [min(max(wanted[i], low), high) for i in order]
    for k in range(1, len(placed)):
        placed[k] = max(placed[k], placed[k - 1] + gap)
    ceiling = high
    for k in reversed(range(len(placed))):
        placed[k] = min(placed[k], ceiling)
        ceiling = placed[k] - gap
    result = [0.0] * len(wanted)
    for i, place in zip(order, placed, strict=True):
        result[i] = place
    return result


def _rates_line(axes: Axes, comparison: Comparison, contender: Contender, budget: float, row: int) -> None:
    point = next((p for p in comparison.points(contender) if p.budget == budget), None)
    if point is None:
        return
    rates = point.rates_G[row :: len(BLOCK_GATES)]
    style = style_of(contender)
    axes.plot(
        np.arange(len(rates)),
        rates,
        color=style.colour,
        marker=style.marker,
        linewidth=style.width,
        label=contender.label,
    )


def _percent(value: float, position: int) -> str:
    return f"{100 * value:g} %"


def write_figure(figure: Figure, path: Path) -> None:
    """Writes a figure in the format that its path names, whole or not at all."""
    replace_file(path, partial(figure.savefig, dpi=120, format=path.suffix[1:] or "png"))


@contextmanager
def canvas() -> Iterator[Any]:
    """pyplot without a display, with text that stays readable in a page."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    style: Any = {"font.size": 13, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 14}
    with matplotlib.rc_context(style):
        yield pyplot
