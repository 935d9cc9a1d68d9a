"""The frontier as it moves: reward on validation clips against realised compute, all looks of a run in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEARNED, RULE = "#D55E00", "#0072B2"
"""As in the pictures of evaluations."""

FAINT, MIDDLING = 0.15, 0.6
"""Opacity of the first look and of the last but one."""


def frontier_figure(looks: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws the picture.

    Args:
        looks: At least one look at the validation clips, as `train.loop.history.read` gives them.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, PercentFormatter

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(*_curve(looks[0], "heuristic"), "s--", color=RULE, label="the rule it started from")
    for k, look in enumerate(looks[:-1]):
        opacity = FAINT + (MIDDLING - FAINT) * k / len(looks)
        axes.plot(*_curve(look, "learned"), "o-", color=LEARNED, alpha=opacity, linewidth=1, markersize=3)
    label = f"learned, step {looks[-1]['step']}"
    axes.plot(*_curve(looks[-1], "learned"), "o-", color=LEARNED, linewidth=2.5, label=label)
    axes.set(xscale="log", xlabel="share of the dense multiply-accumulates", ylabel="reward on validation clips")
    budgets = sorted({point["budget"] for point in looks[-1]["points"]})
    axes.set_xticks(budgets)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    return figure


def _curve(look: Mapping[str, Any], policy: str) -> tuple[list[float], list[float]]:
    points = sorted((p["share"], p["reward"]) for p in look["points"] if p["policy"] == policy)
    return [share for share, _ in points], [reward for _, reward in points]
