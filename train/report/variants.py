"""What one thing is worth: trainings that differ from a reference in it, on the same clips, resample by resample.

Variants (ablations, other seeds) have a frontier each. Specialists have a point each: what was trained and calibrated
for a single budget, compared with the one checkpoint for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eventful.errors import UserError
from train.evaluation.bootstrap import Estimate
from train.evaluation.comparison import Comparison
from train.evaluation.contenders import Contender
from train.evaluation.results_file import Finished
from train.evaluation.summary import share_needed
from train.evaluation.tables import markdown, percent, ratio, signed, with_interval
from train.report.finished import comparison_of


@dataclass
class Trained:
    """A learned policy in an evaluation of its own.

    Attributes:
        title: Name in tables.
        finished: The evaluation.
        comparison: Its frontiers.
    """

    title: str
    finished: Finished
    comparison: Comparison

    @property
    def learned(self) -> Contender:
        """The policy, deployed by threshold."""
        return next(c for c in self.comparison.lines if c.name == "Learned")


def trained(title: str, finished: Finished, tolerances: Sequence[float], reference: Trained | None = None) -> Trained:
    """The learned policy of an evaluation.

    Args:
        title: Name in tables and errors.
        finished: The evaluation.
        tolerances: See `Comparison`.
        reference: What it is to be compared with.

    Raises:
        UserError: If the evaluation has no finished `Learned`, or is not of the reference's clips and dense model.
    """
    found = Trained(title, finished, comparison_of(finished, tolerances))
    if not any(c.name == "Learned" for c in found.comparison.lines):
        raise UserError(f"{title}: the evaluation has no finished runs of Learned")
    if reference is not None and _ground(found) != _ground(reference):
        raise UserError(
            f"{title}: not the clips, resamples or dense model of {reference.title}, so they cannot be compared: "
            "evaluate both with the same split, clips, frames and bootstrap"
        )
    return found


def _ground(of: Trained) -> object:
    (dense,) = of.comparison.end("All").records
    what = [of.finished.setting.get(name) for name in ("task", "model weights", "bootstrap", "bootstrap_seed")]
    return dense.clips, dense.frames_U, dense.metric_R, what


def variants_section(reference: Trained, variants: Sequence[Trained], specialists: Sequence[Trained]) -> str:
    """Both tables, those that have rows, with a word on how to read them."""
    parts = ["## What single things are worth"]
    if variants:
        label = reference.comparison.measures[0].label
        parts.append(
            f"The first row has the {label} of {reference.title}, the others what they differ by at equal compute; the "
            "ratio is of the compute that they need to that of the first row."
        )
        parts.append(variants_table(reference, variants))
    if specialists:
        parts.append(specialists_table(reference, specialists))
    return "\n\n".join(parts)


def variants_table(reference: Trained, variants: Sequence[Trained]) -> str:
    """The reference's quality and each variant's difference from it; the compute that each needs."""
    measure, tolerance = reference.comparison.measures[0], reference.comparison.tolerances[0]
    budgets = reference.comparison.budgets
    ours = reference.comparison.frontier(reference.learned, measure)
    needed_R = reference.comparison.needed_R(reference.learned, tolerance)
    kept = percent(1 - tolerance) if reference.comparison.labelled else f"distance {tolerance:g}"
    header = ["policy", *(f"{measure.label} at {percent(b)}" for b in budgets), f"keeps {kept} with", "ratio"]
    values = [with_interval(Estimate.of(ours.at(budget))) for budget in budgets]
    rows = [[reference.title, *values, share_needed(reference.comparison, reference.learned, tolerance), ""]]
    for variant in variants:
        theirs = variant.comparison.frontier(variant.learned, measure)
        gaps = [
            signed(Estimate.of(theirs.at(budget) - ours.at(budget))) if budget in variant.comparison.budgets else ""
            for budget in budgets
        ]
        with np.errstate(invalid="ignore"):
            over = Estimate.of(variant.comparison.needed_R(variant.learned, tolerance) / needed_R)
        needs = share_needed(variant.comparison, variant.learned, tolerance)
        rows.append([variant.title, *gaps, needs, ratio(over)])
    return markdown(header, rows)


def specialists_table(reference: Trained, specialists: Sequence[Trained]) -> str:
    """Each specialist beside the one checkpoint, at the specialist's own compute and at its own quality."""
    measure = reference.comparison.measures[0]
    ours = reference.comparison.frontier(reference.learned, measure)
    header = ["specialist", "share", measure.label, f"{reference.title} at that share, minus it"]
    header.append(f"share of {reference.title} for the same {measure.label}, over its own")
    rows = []
    for specialist in specialists:
        shares_RK, qualities_RK = specialist.comparison.frontier(specialist.learned, measure).points
        for share_R, quality_R in zip(shares_RK.T, qualities_RK.T, strict=True):
            gap = Estimate.of(ours.at(share_R) - quality_R)
            over = Estimate.of(ours.needed(quality_R, measure.higher_is_better, ends=True) / share_R)
            own = with_interval(Estimate.of(quality_R))
            rows.append([specialist.title, percent(float(share_R[0])), own, signed(gap), ratio(over)])
    return markdown(header, rows)
