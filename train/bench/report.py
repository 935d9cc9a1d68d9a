"""What the benchmark found, as text and as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from train.bench.dense import DenseWay
from train.bench.op_profile import FrameProfile
from train.bench.paper_column import AccountingCheck
from train.bench.parts import by_part
from train.bench.row import Row
from train.bench.slopes import Slope, slopes
from train.evaluation.tables import markdown

MB = 1e6

LEGEND = """
- **ms**, **dense ms**: per frame of one stream, median of the frames [quartiles]; the dense model is the fastest of the
  ways above, and sees the same frames in turn. **speed-up**: frame by frame.
- **MACs**: dense over eventful multiply-accumulates, in the blocks, gates included (the paper's accounting);
  **of it**: speed-up over that. **whole model**, **of it**: with patch embedding and head on both sides, which the
  times contain as well.
- **1 - cos**: between the outputs of the last frame and the dense model's on it, weights being random.
- **state**: what is kept between two frames. **peak**: memory of a flush and two frames beyond the weights, state
  included.
"""


@dataclass
class Report:
    """All results.

    Attributes:
        about: Settings, machine and versions of the run, by name.
        dense: Ways of running the dense model, by size.
        rows: Results of each mode of each case.
        dense_peaks: Peak bytes of the dense model, by size.
        checks: Checks of the published compute column.
        profiles: Profiles by case and mode.
    """

    about: dict[str, Any]
    dense: list[DenseWay] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    dense_peaks: dict[int, int] = field(default_factory=dict)
    checks: list[AccountingCheck] = field(default_factory=list)
    profiles: dict[str, FrameProfile] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the fields, how times grow, and the parts of the profiles."""
        found = {"slopes": [dataclasses.asdict(slope) for slope in slopes(self.rows)]}
        parts = {"parts": {name: by_part(profile) for name, profile in self.profiles.items()}}
        return dataclasses.asdict(self) | found | parts

    def to_markdown(self) -> str:
        """The whole report."""
        parts = ["# Benchmark", "\n".join(f"- {name}: {value}" for name, value in self.about.items())]
        if self.dense:
            parts.append(dense_table(self.dense))
        if self.rows:
            parts += [timing_table(self.rows), LEGEND.strip(), *slowest(self.rows), *slope_table(slopes(self.rows))]
        if self.dense_peaks:
            peaks = ", ".join(f"{size} px: {peak / MB:.0f} MB" for size, peak in self.dense_peaks.items())
            parts.append(f"Peak of the dense model: {peaks}.")
        parts += [accounting_table(check) for check in self.checks]
        if self.profiles:
            parts.append(parts_table(self.profiles))
        parts += [profile_table(name, profile) for name, profile in self.profiles.items()]
        return "\n\n".join(parts) + "\n"


def dense_table(ways: list[DenseWay]) -> str:
    """One line for each way of running the dense model at each size."""
    rows = [
        [
            str(way.size),
            f"**{way.way}**" if way.fastest else way.way,
            f"does not run: {way.missing}" if way.ms is None else "{1:.0f} [{0:.0f}, {2:.0f}]".format(*way.ms),
        ]
        for way in ways
    ]
    return "The dense model, the fastest in bold:\n\n" + markdown(["size", "way", "ms"], rows)


def slowest(rows: list[Row]) -> list[str]:
    """A sentence for each mode: the case in which it gains least over the dense model."""
    lines = []
    for mode in dict.fromkeys(row.mode for row in rows):
        timed = [(row.timing.speedup[1], row) for row in rows if row.mode == mode and row.timing is not None]
        if len(timed) > 1:
            least, row = min(timed, key=lambda pair: pair[0])
            lines.append(f"Least speed-up of {mode}: {least:.2f}, at {row.size} px, r={row.r}.")
    return lines


def timing_table(rows: list[Row]) -> str:
    """One line for each mode of each case."""
    header = ["size", "r", "mode", "ms", "dense ms", "speed-up", "MACs", "of it", "whole model", "of it"]
    return markdown([*header, "1 - cos", "state MB", "peak MB"], [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    start = [str(row.size), str(row.r), row.mode]
    state = f"{row.state_bytes / MB:.0f}"
    peak = "" if row.peak_bytes is None else f"{row.peak_bytes / MB:.0f}"
    timing = row.timing
    if timing is None:
        return [*start, f"skipped: {row.skipped}", *[""] * 7, state, peak]
    speedup = timing.speedup[1]
    return [
        *start,
        "{1:.1f} [{0:.1f}, {2:.1f}]".format(*timing.ms),
        "{1:.0f} [{0:.0f}, {2:.0f}]".format(*timing.dense_ms),
        "{1:.2f} [{0:.2f}, {2:.2f}]".format(*timing.speedup),
        f"{timing.macs:.2f}",
        f"{speedup / timing.macs:.2f}",
        f"{timing.macs_overall:.2f}",
        f"{speedup / timing.macs_overall:.2f}",
        f"{timing.distance:.1e}",
        state,
        peak,
    ]


def slope_table(found: list[Slope]) -> list[str]:
    """How times grow, if there is enough to tell."""
    rows = []
    for slope in found:
        if slope.over == "M":
            fixed, law = f"{slope.fixed} px", f"{slope.start:.1f} + {slope.slope:.3f} M"
        else:
            fixed = f"r={slope.fixed}" if slope.fixed else ""
            law = f"{slope.start:.1f} (N / 1000)^{slope.slope:.2f}"
        rows.append([slope.mode, fixed, str(slope.points), law])
    title = "## Time against selected tokens M and all tokens N\n\nLeast squares; ms a frame.\n\n"
    return [title + markdown(["mode", "at", "cases", "ms"], rows)] if rows else []


def parts_table(profiles: Mapping[str, FrameProfile]) -> str:
    """The parts of the work, a column for each profile."""
    parts = {name: by_part(profile) for name, profile in profiles.items()}
    rows = [
        [part, *(f"{seconds[part] * 1e3:.1f}" for seconds in parts.values())] for part in next(iter(parts.values()))
    ]
    return "## Time by part\n\nms of a frame.\n\n" + markdown(["part", *parts], rows)


def accounting_table(check: AccountingCheck) -> str:
    """The published compute column, operation by operation."""
    rows = [
        [name, f"{amount:.3f}", f"{check.ledger[name]:.3f}" if name in check.ledger else ""]
        for name, amount in sorted(check.by_operation.items(), key=lambda item: -item[1])
    ]
    theirs = check.published
    rows.append(["**steady state**", f"{check.total:.2f}", "" if theirs is None else f"authors: {theirs[1]}"])
    rows.append(["**flush**", f"{check.flush:.2f}", "" if theirs is None else f"authors: {theirs[0]}"])
    verdict = "agrees" if check.agrees else "DOES NOT AGREE"
    title = (
        f"## ViTDet-B, {check.size} px, r={check.r}, random weights: the authors' accounting of a real run {verdict}"
    )
    return f"{title}\n\nGiga-MACs of a frame.\n\n" + markdown(["operation", "accounting", "ledger of the run"], rows)


def profile_table(name: str, profile: FrameProfile, most: int = 16) -> str:
    """The slowest operations of a frame."""
    total = sum(op.seconds for op in profile.ops)
    rows = [
        [op.name, op.shapes, str(op.calls), f"{op.seconds * 1e3:.2f}", f"{100 * op.seconds / profile.seconds:.1f} %"]
        for op in profile.ops[:most]
    ]
    other = total - sum(op.seconds for op in profile.ops[:most])
    outside = profile.seconds - total
    for label, seconds in (("other operations", other), ("outside of operations", outside)):
        rows.append([label, "", "", f"{seconds * 1e3:.2f}", f"{100 * seconds / profile.seconds:.1f} %"])
    calls = sum(op.calls for op in profile.ops)
    title = f"## Profile: {name}, {profile.seconds * 1e3:.1f} ms a frame, {calls} operations"
    return f"{title}\n\n" + markdown(["operation", "shapes", "calls", "ms", "share"], rows)


def checks_failed(checks: list[AccountingCheck]) -> Mapping[str, float]:
    """Totals of the checks that do not agree, by case."""
    return {f"{check.size}/{check.r}": check.total for check in checks if not check.agrees}
