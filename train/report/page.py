"""The page: tables and frontiers of several evaluations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from train.evaluation.comparison import Comparison
from train.evaluation.summary import share_needed, summary
from train.evaluation.tables import LEGEND, markdown, percent, ratio, reached, table, with_interval


def report(
    comparisons: Mapping[str, Comparison], about: Mapping[str, Sequence[str]], pictures: str, trainings: str = ""
) -> str:
    """Everything between the marks.

    Args:
        comparisons: Evaluations by title.
        about: Lines on each of them.
        pictures: Folder of the pictures, relative to the page.
        trainings: What single things are worth (`train.report.variants`); empty for no such section.
    """
    parts = ["## At a glance", _glance(comparisons), *([trainings] if trainings else [])]
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
                theirs = [best.label, reached(comparison.needed(best, tolerance))]
            for ours in lines:
                kept = percent(1 - tolerance) if comparison.labelled else f"distance {tolerance:g}"
                over = "" if best is None else ratio(comparison.needed_ratio(ours, best, tolerance))
                rows.append([title, ours.label, kept, share_needed(comparison, ours, tolerance), *theirs, over])
    areas = [
        [title, ours.label, comparison.measures[0].label, with_interval(comparison.area(ours, comparison.measures[0]))]
        for title, comparison in comparisons.items()
        for ours in comparison.lines
    ]
    area = markdown(["evaluation", "policy", "measure", "its mean over log share"], areas)
    return f"{markdown(header, rows)}\n\n{area}"
