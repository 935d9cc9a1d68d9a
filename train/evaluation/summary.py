"""`summary.md`: what an evaluation found, in a page.

The opponent of a learned policy is the best of all hand-made rules, at each budget; and, beside it, the best of those
that do not look at what the consumer of the outputs cared for. Which rule is best is read off these very clips, which
favours the opponent; intervals are those of the paired difference or ratio to that rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from train.evaluation.bootstrap import Estimate
from train.evaluation.comparison import Comparison, Difference, FrontierPoint, Measure
from train.evaluation.contenders import Contender
from train.evaluation.tables import INTERVALS, MATCHED, figure, markdown, percent, signed, with_interval

OFF = 0.15
"""Relative difference of realised and asked share that is pointed out."""

FEW = 10
"""Clips below which intervals are called rough."""

_TRIED = (
    "Where a side meets the goal already at the smallest share that was tried, that share stands for what it needs: "
    "the ratio is then an upper bound (the learned policy) or a lower bound (the rule)."
)

_BLIND = "that does not look at the outputs"


def summary(comparison: Comparison, about: Sequence[str], notes: Sequence[str]) -> str:
    """The whole page."""
    first = comparison.measures[0]
    parts = ["# Evaluation", "\n".join(f"- {line}" for line in about)]
    for measure in comparison.measures if any(c.learned for c in comparison.lines) else []:
        direction = "higher" if measure.higher_is_better else "lower"
        title = f"## Learned against the best rule: {measure.label} ({direction} is better)"
        parts += [title, _against_best(comparison, measure)]
    parts += ["## Compute that keeps the dense model's quality", _needed(comparison)]
    direction = "higher" if first.higher_is_better else "lower"
    low, high = percent(comparison.budgets[0]), percent(comparison.budgets[-1])
    area = f"Mean {first.label} over log share, {low} to {high} ({direction} is better)."
    parts += ["## Area under the frontier", area]
    areas = [[c.label, with_interval(comparison.area(c, first))] for c in comparison.lines]
    parts.append(markdown(["policy", f"mean {first.label}"], areas))
    remarks = [*_remarks(comparison), *notes, MATCHED, INTERVALS]
    parts += ["## Notes", "\n".join(f"- {remark}" for remark in remarks)]
    return "\n\n".join(parts) + "\n"


def _learned(comparison: Comparison) -> list[Contender]:
    return [c for c in comparison.lines if c.learned]


def _against_best(comparison: Comparison, measure: Measure) -> str:
    rules, blind = comparison.rules(), comparison.rules(blind=True)
    if not rules:
        return "There is no rule to compare with."
    both = len(blind) not in (0, len(rules))
    header = ["policy", "at", f"best of {len(rules)} rules", "minus it", ""]
    header += [f"best of {len(blind)} {_BLIND}", "minus it", ""] if both else []
    rows = []
    for ours in _learned(comparison):
        for budget in comparison.budgets:
            row = [ours.label, percent(budget), *_cells(comparison.against_best(ours, measure, budget))]
            row += _cells(comparison.against_best(ours, measure, budget, blind=True)) if both else []
            rows.append(row)
    return markdown(header, rows)


def _cells(found: Difference | None) -> list[str]:
    return ["", "", ""] if found is None else [found.theirs.label, signed(found.estimate), f"**{found.verdict}**"]


def _needed(comparison: Comparison) -> str:
    parts = []
    for tolerance in comparison.tolerances:
        rows = [[c.label, *_reach(comparison.needed(c, tolerance), comparison.points(c))] for c in comparison.lines]
        parts.append(f"Smallest share from which on the policy keeps {goal(comparison, tolerance)}.")
        parts.append(markdown(["policy", "share of the dense MACs", "95 % interval"], rows))
    ratios = [row for tolerance in comparison.tolerances for row in _ratios(comparison, tolerance)]
    if ratios:
        parts.append(f"The learned policy's share over the best rule's (below 1 is better). {_TRIED}")
        parts.append(markdown(["policy", "keeps", "over", "ratio", "95 % interval"], ratios))
    return "\n\n".join(parts)


def share_needed(comparison: Comparison, contender: Contender, tolerance: float) -> str:
    """Share of the dense MACs that keeps the first measure within a tolerance, with its interval."""
    value, interval = _reach(comparison.needed(contender, tolerance), comparison.points(contender))
    return f"{value} [{interval}]"


def goal(comparison: Comparison, tolerance: float) -> str:
    """What a policy has to keep, in words."""
    first = comparison.measures[0]
    if first.higher_is_better:
        return f"{percent(1 - tolerance)} of the dense model's {first.label}"
    return f"a mean distance of at most {tolerance:g}"


def _ratios(comparison: Comparison, tolerance: float) -> list[list[str]]:
    kinds = [False, True] if len(comparison.rules(blind=True)) < len(comparison.rules()) else [False]
    best = {blind: comparison.thriftiest(tolerance, blind) for blind in kinds if comparison.rules(blind)}
    names = {False: "the best of all rules", True: f"the best {_BLIND}"}
    rows = []
    for ours in _learned(comparison):
        for blind, theirs in best.items():
            if theirs is None:
                rows.append([ours.label, goal(comparison, tolerance), f"{names[blind]}: none gets there", "", ""])
                continue
            over = f"{theirs.label}, {names[blind]}"
            if all(_at_once(comparison.needed(c, tolerance), comparison.points(c)) for c in (ours, theirs)):
                rows.append([ours.label, goal(comparison, tolerance), over, "both, with the smallest share tried", ""])
                continue
            ratio = comparison.needed_ratio(ours, theirs, tolerance)
            ends = f"{_ratio(ratio.low)} to {_ratio(ratio.high)}"
            rows.append([ours.label, goal(comparison, tolerance), over, _ratio(ratio.value), ends])
    return rows


def _at_once(needed: Estimate, points: Sequence[FrontierPoint]) -> bool:
    """Whether the smallest share that was tried is enough."""
    return needed.value <= min(point.share.value for point in points) * (1 + 1e-9)


def _ratio(value: float) -> str:
    return "not reached" if np.isinf(value) else f"{value:.2f}"


def _reach(needed: Estimate, points: Sequence[FrontierPoint]) -> list[str]:
    shares = [point.share.value for point in points]

    def show(value: float) -> str:
        return "not reached" if value == float("inf") else percent(value)

    if needed.value == float("inf"):
        shown = f"not reached (up to {percent(max(shares))})"
    elif _at_once(needed, points):
        shown = f"at most {percent(needed.value)} (the smallest tried)"
    else:
        shown = percent(needed.value)
    return [shown, f"{show(needed.low)} to {show(needed.high)}"]


def _remarks(comparison: Comparison) -> list[str]:
    """What a reader must know to judge the figures."""
    points = [point for contender in comparison.lines for point in comparison.points(contender)]
    learned = [point for point in points if point.contender.learned]
    remarks = []
    if learned:
        own = max(point.policy for point in learned)
        remarks.append(f"the learned policy's own cost is {percent(own)} of the dense MACs, part of every share above")
        seeds = max(len(point.records) for point in learned)
        if seeds > 1:
            spread = max(point.spread[comparison.measures[0].id] for point in learned)
            remarks.append(
                f"learned figures are means over {seeds} checkpoints, which differ by up to {figure(spread)} in "
                f"{comparison.measures[0].label}; intervals are over clips, not over checkpoints"
            )
    off = [
        f"{point.contender.label} {percent(point.share.value)} for {percent(point.budget)}"
        for point in points
        if point.budget is not None and abs(point.share.value / point.budget - 1) > OFF
    ]
    if off:
        remarks.append(f"realised shares that miss the asked one by more than {percent(OFF)}: {', '.join(off)}")
    clips = len(points[0].records[0].clips)
    if clips < FEW:
        remarks.append(f"{clips} clips are few for a bootstrap: the intervals are rough, and likely too narrow")
    return remarks
