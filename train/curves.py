"""Learning curves: reward on validation clips against minutes of training, for several runs of several kinds.

    python -m train.curves out=runs/curves.png 'runs.REINFORCE=[runs/reinforce-0,runs/reinforce-1]' \
        'runs.Gumbel=[runs/gumbel-0,runs/gumbel-1]'

Reads the runs' `history.jsonl` (`train.loop.history`), draws a panel for each budget, and prints a table: what the
calibrated threshold earns, what each run ends with, and when it has overtaken the threshold for good.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from eventful import cli
from eventful.checks.extras import require
from eventful.errors import UserError
from train.config import load_config
from train.evaluation.plots import canvas, write_figure
from train.loop import history

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COMMAND = "python -m train.curves"
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


@dataclass
class CurvesConfig:
    """Learning curves of training runs.

    Attributes:
        runs: Folders of runs by label, as `runs.LABEL=[FOLDER,FOLDER]`; those of one label differ in their seeds.
        out: Path of the picture.
        reward: Reward of the runs, in words, for the label of the axis.

    Examples:
        python -m train.curves out=curves.png 'runs.REINFORCE=[runs/r-0,runs/r-1]' 'runs.Gumbel=[runs/g-0,runs/g-1]'
    """

    runs: dict[str, list[str]] = field(default_factory=dict)
    out: str = "runs/curves.png"
    reward: str = "minus distance to the dense model (mean + 0.2 × worst 20 tokens)"


@dataclass(frozen=True)
class Curve:
    """One run at one budget.

    Attributes:
        minutes: Minutes of training at each look.
        reward: Reward of the learned policy at each look.
        heuristic: Reward of the calibrated threshold, the same throughout.
    """

    minutes: list[float]
    reward: list[float]
    heuristic: float

    @property
    def overtaken(self) -> float | None:
        """Minutes after which every look finds more reward than the threshold earns; None if the last one does not."""
        behind = [k for k, reward in enumerate(self.reward) if reward <= self.heuristic]
        first = behind[-1] + 1 if behind else 0
        return self.minutes[first] if first < len(self.minutes) else None


Curves = Mapping[str, Sequence[Mapping[float, Curve]]]
"""Curves by label, run and budget."""


def read_curves(folder: Path) -> dict[float, Curve]:
    """A run's curves by budget.

    Raises:
        UserError: If the run has no history yet, or a damaged one.
    """
    try:
        looks = history.read(folder)
        rows = [(look["minutes"], row) for look in looks for row in look["points"]]
        budgets = sorted({row["budget"] for _, row in rows})
        curves = {}
        for budget in budgets:
            mine = [(t, r["reward"]) for t, r in rows if r["budget"] == budget and r["policy"] == "learned"]
            heuristic = next(r["reward"] for _, r in rows if r["budget"] == budget and r["policy"] == "heuristic")
            curves[budget] = Curve([t for t, _ in mine], [r for _, r in mine], heuristic)
    except (KeyError, TypeError, StopIteration) as error:
        raise UserError(f"{folder / 'history.jsonl'} is no history of a training run") from error
    if not curves:
        raise UserError(f"{folder / 'history.jsonl'} is empty: the run has not begun")
    return curves


def table(curves: Curves) -> str:
    """Final rewards of all runs as Markdown."""
    lines = [
        "| budget | policy | reward, each run | mean ± sd | ahead for good after, minutes |",
        "|---|---|---|---|---|",
    ]
    budgets = sorted({budget for runs in curves.values() for run in runs for budget in run})
    for budget in budgets:
        known = [run[budget].heuristic for runs in curves.values() for run in runs if budget in run]
        lines.append(f"| {budget:g} | calibrated threshold | {_list(sorted(set(known)))} | | |")
        for label, runs in curves.items():
            mine = [run[budget] for run in runs if budget in run]
            last = [curve.reward[-1] for curve in mine]
            spread = f"{mean(last):.4f}" + (f" ± {stdev(last):.4f}" if len(last) > 1 else "")
            ahead = ", ".join("never" if c.overtaken is None else f"{c.overtaken:.1f}" for c in mine)
            lines.append(f"| {budget:g} | {label} | {_list(last)} | {spread} | {ahead} |")
    return "\n".join(lines)


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def plot(curves: Curves, path: Path, reward: str) -> None:
    """Draws a panel for each budget."""
    budgets = sorted({budget for runs in curves.values() for run in runs for budget in run})
    with canvas() as pyplot:
        figure, panels = pyplot.subplots(
            1, len(budgets), figsize=(1 + 6 * len(budgets), 5.5), layout="constrained", squeeze=False
        )
        for axes, budget in zip(panels[0], budgets, strict=True):
            _panel(axes, curves, budget)
        panels[0, 0].set_ylabel("\n".join(textwrap.wrap(f"reward: {reward}", 44)))
        figure.suptitle("Reward on validation clips, at equal compute (higher is better)", fontweight="bold")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_figure(figure, path)
        pyplot.close(figure)


def _panel(axes: Axes, curves: Curves, budget: float) -> None:
    axes.set_title(f"at {100 * budget:g} % of the dense compute")
    axes.set_xlabel("minutes of training")
    for colour, (label, runs) in zip(_cycle(len(curves)), curves.items(), strict=True):
        mine = [run[budget] for run in runs if budget in run]
        for k, curve in enumerate(mine):
            name = f"{label}, {len(mine)} seeds" if not k else None
            axes.plot(curve.minutes, curve.reward, color=colour, marker="o", markersize=4, alpha=0.8, label=name)
    level = next(run[budget].heuristic for runs in curves.values() for run in runs if budget in run)
    axes.axhline(level, color="black", linestyle=(0, (6, 3)), linewidth=1.4, label="calibrated threshold")
    axes.set_xlim(left=0)


def _cycle(count: int) -> list[Any]:
    return [COLOURS[k % len(COLOURS)] for k in range(count)]


def _main(argv: Sequence[str]) -> None:
    config = load_config(CurvesConfig, argv, COMMAND)
    require(COMMAND, "plot")
    if not config.runs or not all(config.runs.values()):
        raise UserError("no runs: give runs.LABEL=[FOLDER,FOLDER]")
    curves = {label: [read_curves(Path(folder)) for folder in folders] for label, folders in config.runs.items()}
    print(table(curves))
    plot(curves, Path(config.out), config.reward)
    print(f"\nwritten to {config.out}")


if __name__ == "__main__":
    cli.run(COMMAND, _main)
