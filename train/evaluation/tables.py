"""What an evaluation found, as text: `table.csv`, `table.md`, `differences.md`."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from math import isinf, isnan

from train.evaluation.bootstrap import Estimate
from train.evaluation.comparison import Comparison, Difference, FrontierPoint

INTERVALS = "Brackets are 95 % intervals from a bootstrap over clips, with the same resamples for all policies."
MATCHED = (
    "Realised shares differ from asked ones, so policies are compared at exactly the asked share: each frontier is "
    "interpolated over log share between its measured points, and ends in what updates nothing and in the dense model."
)


def percent(share: float) -> str:
    """A share with three significant digits, such as `4.87 %`."""
    return f"{100 * share:.3g} %"


def figure(value: float) -> str:
    """Three decimals, or three significant digits where these would all be zero."""
    return f"{value:.3f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


def with_interval(estimate: Estimate) -> str:
    """Value and interval."""
    return f"{figure(estimate.value)} [{figure(estimate.low)}, {figure(estimate.high)}]"


def signed(estimate: Estimate) -> str:
    """A difference and its interval."""
    return f"{estimate.value:+.2g} [{estimate.low:+.2g}, {estimate.high:+.2g}]"


def reached(estimate: Estimate, show: Callable[[float], str] = percent) -> str:
    """A share that something needs, with its interval; either may be infinite, and then a ratio of two is none."""
    if isnan(estimate.value):
        return "neither reaches it"
    value, low, high = ("not reached" if isinf(x) else show(x) for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def ratio(estimate: Estimate) -> str:
    """Such a share over another one."""
    return reached(estimate, "{:.2f}".format)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], aligned: bool = True) -> str:
    """A Markdown table, whose columns line up also as plain text if `aligned`."""
    widths = [max(len(row[i]) for row in [header, *rows]) if aligned else 1 for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def all_points(comparison: Comparison) -> list[FrontierPoint]:
    """The dense model, then every contender by budget, then the one that updates nothing."""
    points = [point for contender in comparison.lines for point in comparison.points(contender)]
    return [comparison.end("All"), *points, comparison.end("Nothing")]


def table(comparison: Comparison, brief: bool = False) -> str:
    """`table.md`: one row for each policy and budget; if brief, the columns that fit into a terminal."""
    rows = [_row(comparison, point) for point in all_points(comparison)]
    shown = [name for name in rows[0] if any(row[name] for row in rows) and not (brief and name in _LESSER)]
    return markdown(shown, [[row[name] for name in shown] for row in rows])


_LESSER = ("with flush", "whole model", "oldest", "setting")
"""Columns that the brief table leaves out."""


def _row(comparison: Comparison, point: FrontierPoint) -> dict[str, str]:
    row = {
        "policy": point.contender.label,
        "asked": "" if point.budget is None else percent(point.budget),
        "share": percent(point.share.value),
        "with flush": percent(point.share_flush),
        "whole model": percent(point.overall),
    }
    for measure in comparison.measures:
        estimate = point.quality[measure.id]
        row[measure.label] = with_interval(estimate) if measure == comparison.measures[0] else figure(estimate.value)
        if measure.id == "metric" and point.above_dense is not None:
            row["minus dense"] = "" if point.contender.name == "All" else signed(point.above_dense)
    timed = point.latency
    row["oldest"] = str(point.age_max)
    row["speed-up"] = "" if timed is None else "{1:.2f} [{0:.2f}, {2:.2f}]".format(*timed.speedup)
    row["in all"] = "" if timed is None or timed.in_all is None else f"{timed.in_all:.2f}"
    row["setting"] = _setting(point)
    return row


def _setting(point: FrontierPoint) -> str:
    seeds = len(point.records)
    return point.records[0].detail if seeds == 1 else f"mean of {seeds} seeds"


LEGEND = f"""
- **asked**, **share**: budget and realised cost, as shares of the dense model's multiply-accumulates in its blocks;
  gates and the policy itself are counted. Mean over the frames after the first one of each clip; on these all quality
  is scored, too.
- **with flush**: the same with each clip's first frame, which is always computed in full.
- **whole model**: share with patch embedding and head counted on both sides.
- **minus dense**: the task's metric minus the dense model's, with its interval from the same resamples.
- **distance**: 1 - cosine between the final tokens and the dense model's on the same frame, mean over tokens;
  **worst tokens**: mean over each frame's 20 worst.
- **oldest**: most frames that any token went without an update. **speed-up**: over the dense model with fused
  attention, batch 1, frame by frame in turn; median [quartiles]. **in all**: of the sums of their times, which is what
  counts where costs follow the content.
- {INTERVALS}
"""


def table_csv(comparison: Comparison) -> str:
    """`table.csv`: the same in full precision."""
    out = io.StringIO()
    rows = [_csv_row(comparison, point) for point in all_points(comparison)]
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _csv_row(comparison: Comparison, point: FrontierPoint) -> dict[str, object]:
    row: dict[str, object] = {
        "policy": point.contender.id,
        "budget": "" if point.budget is None else point.budget,
        "seeds": len(point.records),
        "clips": len(point.records[0].clips),
        "setting": _setting(point),
        "share": point.share.value,
        "share_with_flush": point.share_flush,
        "share_whole_model": point.overall,
        "share_policy": point.policy,
    }
    for measure in comparison.measures:
        name = measure.label.replace(" ", "_")
        estimate = point.quality[measure.id]
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        row[f"{name}_seed_spread"] = point.spread.get(measure.id, "")
    row["oldest_token"] = point.age_max
    timed = point.latency
    for name in ("dense_ms", "eventful_ms", "speedup"):
        row[name] = "" if timed is None else getattr(timed, name)[1]
    row["speedup_in_all"] = "" if timed is None or timed.in_all is None else timed.in_all
    return row


def differences(comparison: Comparison) -> str:
    """`differences.md`: the learned policy minus each other one."""
    parts = ["# Learned minus the others, at matched compute", f"{MATCHED} {INTERVALS}"]
    parts.append(
        "A **win** or **loss** is an interval that leaves out zero; everything else is a tie. "
        "Intervals are not corrected for the number of comparisons."
    )
    for measure in comparison.measures:
        found = comparison.differences(measure)
        if not found:
            return "There is no pair of a learned policy and a heuristic in this evaluation.\n"
        direction = "higher" if measure.higher_is_better else "lower"
        parts += [f"## {measure.label} ({direction} is better)", counted(found)]
        parts.append(_difference_table(found, comparison.budgets))
    return "\n\n".join(parts) + "\n"


def counted(found: Sequence[Difference]) -> str:
    """Wins, ties and losses in one sentence."""
    counts = [sum(d.verdict == verdict for d in found) for verdict in ("win", "tie", "loss")]
    words = [f"{n} {name if n == 1 else plural}" for n, (name, plural) in zip(counts, _PLURALS, strict=True)]
    return f"{words[0]}, {words[1]}, {words[2]} in {len(found)} comparisons."


_PLURALS = (("win", "wins"), ("tie", "ties"), ("loss", "losses"))


def _difference_table(found: Sequence[Difference], budgets: Sequence[float]) -> str:
    header = ["learned", "minus", *(f"at {percent(budget)}" for budget in budgets)]
    rows: dict[tuple[str, str], list[str]] = {}
    for difference in found:
        pair = (difference.ours.label, difference.theirs.label)
        rows.setdefault(pair, []).append(f"{signed(difference.estimate)} {difference.verdict}")
    return markdown(header, [[*pair, *cells] for pair, cells in rows.items()])
