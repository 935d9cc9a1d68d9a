"""The report: tables and frontiers of several evaluations on one page.

    python -m train.report out=docs/results.md 'evaluations.Unseen seeds=runs/test' 'evaluations.Unseen maps=runs/maps'

Reads the evaluations' `results.jsonl` alone; an evaluation that has gone on since is brought up to date by the same
command. The pictures go into a folder beside the page; the page is kept but for its figures (`train.pages`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isinf
from pathlib import Path

from eventful import cli
from eventful.checks.extras import require
from eventful.checks.ranges import setting
from eventful.errors import UserError
from train.config import load_config
from train.evaluation.bootstrap import Estimate, resample_clips
from train.evaluation.comparison import Comparison
from train.evaluation.contenders import parse_contenders
from train.evaluation.plots import plot_frontier
from train.evaluation.results_file import Finished, read_finished
from train.evaluation.summary import share_needed, summary
from train.evaluation.tables import LEGEND, markdown, percent, table, with_interval
from train.pages import replace_figures

COMMAND = "python -m train.report"


@dataclass
class ReportConfig:
    """A page of several evaluations.

    Attributes:
        evaluations: Folders of evaluations by title, as `evaluations.TITLE=FOLDER`.
        out: Path of the page, Markdown.
        tolerances: Losses against the dense model that count as none: relative for a metric, absolute for a distance.

    Examples:
        python -m train.report out=runs/results.md 'evaluations.Seeds=runs/test' 'evaluations.Maps=runs/maps'
    """

    evaluations: dict[str, str] = field(default_factory=dict)
    out: str = "runs/results.md"
    tolerances: list[float] = setting([0.01, 0.03], "(0, 1)")


def comparison_of(finished: Finished, tolerances: Sequence[float]) -> Comparison:
    """The comparison that an evaluation's files hold.

    Raises:
        UserError: If the dense model or the frozen one has no run yet: every frontier ends in them.
    """
    left_out = unfinished(finished)
    records = [record for record in finished.records if record.key.contender not in left_out]
    names = list(dict.fromkeys(record.key.contender for record in records))
    lacking = [name for name in ("All", "Nothing") if name not in names]
    if lacking:
        raise UserError(f"the evaluation is not finished: it has no run of {', '.join(lacking)} yet")
    setting = finished.setting
    draws_RU = resample_clips(len(records[0].clips), setting["bootstrap"], setting["bootstrap_seed"])
    contenders = parse_contenders(names, setting["granularity"])
    metric = finished.metric_name or ("task metric" if records[0].metric_R else None)
    return Comparison(contenders, records, finished.latencies, draws_RU, metric, tolerances)


def unfinished(finished: Finished) -> list[str]:
    """Contenders that lack a run at some of the budgets: their frontiers would be of other shares than the others'."""
    asked: dict[str, set[float]] = {}
    for key in (record.key for record in finished.records):
        if key.budget is not None:
            asked.setdefault(key.contender, set()).add(key.budget)
    everything = set().union(*asked.values())
    return [name for name, budgets in asked.items() if budgets != everything]


def report(comparisons: Mapping[str, Comparison], about: Mapping[str, Sequence[str]], pictures: str) -> str:
    """Everything between the marks.

    Args:
        comparisons: Evaluations by title.
        about: Lines on each of them.
        pictures: Folder of the pictures, relative to the page.
    """
    parts = ["## At a glance", _glance(comparisons)]
    for title, comparison in comparisons.items():
        parts += [f"## {title}", f"![Quality against compute: {title}]({pictures}/{slug(title)}.png)"]
        page = summary(comparison, about[title], []).split("\n", 1)[1].strip()
        parts += [re.sub("^## ", "### ", page, flags=re.MULTILINE), "### All figures", table(comparison)]
    return "\n\n".join([*parts, f"## Columns\n{LEGEND}"]).strip()


def slug(title: str) -> str:
    """A file's name for a title."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _glance(comparisons: Mapping[str, Comparison]) -> str:
    """One row for each evaluation, policy and tolerance."""
    header = ["evaluation", "policy", "keeps", "with a share of", "best rule", "with", "ratio"]
    rows = []
    for title, comparison in comparisons.items():
        lines = [c for c in comparison.lines if not c.rule] or comparison.lines
        for tolerance in comparison.tolerances:
            best = comparison.thriftiest(tolerance)
            theirs = ["none gets there", ""]
            if best is not None:
                theirs = [best.label, _share(comparison.needed(best, tolerance))]
            for ours in lines:
                kept = percent(1 - tolerance) if comparison.labelled else f"distance {tolerance:g}"
                ratio = "" if best is None else _ratio(comparison.needed_ratio(ours, best, tolerance))
                rows.append([title, ours.label, kept, share_needed(comparison, ours, tolerance), *theirs, ratio])
    areas = [
        [title, ours.label, comparison.measures[0].label, with_interval(comparison.area(ours, comparison.measures[0]))]
        for title, comparison in comparisons.items()
        for ours in comparison.lines
    ]
    area = markdown(["evaluation", "policy", "measure", "its mean over log share"], areas)
    return f"{markdown(header, rows)}\n\n{area}"


def _share(estimate: Estimate) -> str:
    return _shown(estimate, percent)


def _ratio(estimate: Estimate) -> str:
    return _shown(estimate, "{:.2f}".format)


def _shown(estimate: Estimate, show: Callable[[float], str]) -> str:
    value, low, high = ("not reached" if isinf(x) else show(x) for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def _about(finished: Finished) -> list[str]:
    setting, records = finished.setting, finished.records
    frames = sum(records[0].frames_U)
    about = [f"task {setting['task']}, split {setting['split']}: {len(records[0].clips)} clips, {frames} scored frames"]
    about.append(f"granularity {setting['granularity']}, {setting['dtype']}, {setting['device']}")
    checkpoints = dict.fromkeys(r.key.seed for r in records if r.key.contender.startswith("Learned"))
    about += [f"policy {name}" for name in checkpoints]
    left_out = unfinished(finished)
    return [*about, f"left out, as not finished: {', '.join(left_out)}"] if left_out else about


def _main(argv: Sequence[str]) -> None:
    config = load_config(ReportConfig, argv, COMMAND)
    require(COMMAND, "plot")
    if not config.evaluations:
        raise UserError("no evaluations: give evaluations.TITLE=FOLDER")
    finished = {title: read_finished(Path(folder)) for title, folder in config.evaluations.items()}
    comparisons = {title: comparison_of(found, config.tolerances) for title, found in finished.items()}
    out = Path(config.out)
    pictures = out.parent / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    for title, comparison in comparisons.items():
        plot_frontier(comparison, title, pictures / f"{slug(title)}.png")
    text = report(comparisons, {title: _about(found) for title, found in finished.items()}, pictures.name)
    replace_figures(out, text, title="Results")
    print(f"written to {out}, pictures to {pictures}")


if __name__ == "__main__":
    cli.run(COMMAND, _main)
