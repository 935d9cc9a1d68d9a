"""Finished evaluations, read from their files: who is compared, and what they were."""

from __future__ import annotations

from collections.abc import Sequence

from eventful.errors import UserError
from train.evaluation.bootstrap import resample_clips
from train.evaluation.comparison import Comparison
from train.evaluation.contenders import parse_contenders
from train.evaluation.results_file import Finished


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


def about(finished: Finished) -> list[str]:
    """Lines on the task, the clips, the policies and what is left out."""
    setting, records = finished.setting, finished.records
    frames = sum(records[0].frames_U)
    lines = [f"task {setting['task']}, split {setting['split']}: {len(records[0].clips)} clips, {frames} scored frames"]
    lines.append(f"granularity {setting['granularity']}, {setting['dtype']}, {setting['device']}")
    checkpoints = dict.fromkeys(r.key.seed for r in records if r.key.contender.startswith("Learned"))
    lines += [f"policy {name}" for name in checkpoints]
    left_out = unfinished(finished)
    return [*lines, f"left out, as not finished: {', '.join(left_out)}"] if left_out else lines
