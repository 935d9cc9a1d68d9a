"""Results of evaluation runs: one JSON line for each finished run, from which an interrupted evaluation goes on.

The first line holds the setting (task, split, numerics, ...) and its fingerprint. A file of another setting is set
aside under a name of its own, never mixed or overwritten.

Shape suffixes: U clips, R resamples (row 0 is the sample itself), G gates.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isnan, nan
from pathlib import Path
from typing import Any

from eventful.disk.full import append
from eventful.disk.replaced import replace_text
from eventful.errors import UserError
from train.files.saved_state import differing

FORMAT = 1
"""Part of the fingerprint; raised when a run measures something else than before."""


@dataclass(frozen=True)
class Key:
    """What distinguishes the runs of one evaluation.

    Attributes:
        contender: Name of the contender, such as `Learned` or `TopR@gate`.
        budget: Asked share of the dense MACs; None for policies without one.
        seed: Seed of a random policy, or number of the checkpoint.
    """

    contender: str
    budget: float | None = None
    seed: str = ""


@dataclass
class Record:
    """One run: a policy at a budget on all clips. All but `share_flush_U` is of the frames after the flush.

    Attributes:
        key: Key of the run.
        detail: The policy's setting, such as `r=39`.
        clips: Names of the clips.
        frames_U: Frames of each clip after the flush.
        share_U: Mean realised share of the dense MACs.
        share_flush_U: Mean realised share of the dense MACs with the flush counted.
        overall_U: Mean share with patch embedding and head counted on both sides.
        policy_U: Mean share of the dense MACs that the policy itself costs, part of `share_U`.
        distance_U: Mean token distance to the dense model (1 - cosine).
        worst_U: Mean over frames of the mean over the 20 worst tokens.
        age_max_U: Largest number of frames that a token went without an update.
        rates_G: Share of the tokens that each gate selects.
        metric_R: The task's metric of the sample and each resample; empty for tasks without labels.
        seconds: Duration of the run in seconds.
    """

    key: Key
    detail: str
    clips: list[str]
    frames_U: list[int]
    share_U: list[float]
    share_flush_U: list[float]
    overall_U: list[float]
    policy_U: list[float]
    distance_U: list[float]
    worst_U: list[float]
    age_max_U: list[int]
    rates_G: list[float]
    metric_R: list[float] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Latency:
    """Time per frame of one stream, against the dense model on the same frames in turn.

    Attributes:
        key: Key of the policy.
        frames: Number of timed frames.
        dense_ms: Quartiles of the dense model's times.
        eventful_ms: Quartiles of the eventful model's times.
        speedup: Quartiles of the ratios dense / eventful, frame by frame.
        in_all: Ratio of the sums of the times; None in files of earlier versions.
    """

    key: Key
    frames: int
    dense_ms: tuple[float, float, float]
    eventful_ms: tuple[float, float, float]
    speedup: tuple[float, float, float]
    in_all: float | None = None


class ResultsFile:
    """Finished runs on disk.

    Args:
        path: Path of the JSON lines; created with its folder.
        setting: Plain data on which all runs depend.
        metric_name: Name of the task's metric, for whoever reads the file later.
        about: Texts for whoever reads the file later, on which no run depends, such as the command line.

    Attributes:
        notes: Remarks for the user about the file that was found.

    Raises:
        UserError: If the file is not one of these, or is damaged elsewhere than in its last line.
    """

    def __init__(
        self,
        path: Path,
        setting: Mapping[str, Any],
        metric_name: str | None = None,
        about: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self.notes: list[str] = []
        head = {"format": FORMAT, "fingerprint": fingerprint(setting), "setting": dict(setting), "metric": metric_name}
        self._head: dict[str, Any] = head | {"about": dict(about or {})}
        self.records: dict[Key, Record] = {}
        self.latencies: dict[Key, Latency] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._take_over(_read_lines(path))
        self._rewrite()

    def add(self, entry: Record | Latency) -> None:
        """Appends a finished run; it is on disk when this returns."""
        self._keep(entry)
        append(self.path, _line(entry), at_once=True)

    def _keep(self, entry: Record | Latency) -> None:
        if isinstance(entry, Record):
            self.records[entry.key] = entry
        else:
            self.latencies[entry.key] = entry

    def _take_over(self, lines: list[str]) -> None:
        if not lines:
            return
        try:
            head, *rows = [json.loads(line) for line in lines]
            known, kept = head["fingerprint"], dict(head["setting"])
            if known == self._head["fingerprint"]:
                for row in rows:
                    self._keep(_entry(row))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{self.path} is damaged ({error}); delete it, or choose another out") from error
        if known != self._head["fingerprint"]:
            aside = self.path.with_name(f"{self.path.stem}-{known}{self.path.suffix}")
            os.replace(self.path, aside)
            changed = ", ".join(differing(kept, self._head["setting"])) or "the format"
            self.notes.append(f"the settings have changed ({changed}): starting anew; earlier results are in {aside}")
        elif rows:
            self.notes.append(f"going on from {len(rows)} finished runs in {self.path}")

    def _rewrite(self) -> None:
        """Writes what was taken over, so that a torn last line is gone."""
        entries: list[Record | Latency] = [*self.records.values(), *self.latencies.values()]
        replace_text(self.path, "".join([json.dumps(self._head) + "\n", *map(_line, entries)]))


@dataclass(frozen=True)
class Finished:
    """What an evaluation has left behind.

    Attributes:
        setting: What all runs depend on.
        metric_name: Name of the task's metric; None for tasks without one.
        records: Finished runs.
        latencies: Measured times.
        about: What the evaluation says of itself: its `command`, the `backbone`'s hash; empty for earlier versions'.
    """

    setting: Mapping[str, Any]
    metric_name: str | None
    records: Sequence[Record]
    latencies: Mapping[Key, Latency]
    about: Mapping[str, str] = field(default_factory=dict)


def read_finished(folder: Path) -> Finished:
    """The finished runs of an evaluation.

    Args:
        folder: The evaluation's `out`.

    Raises:
        UserError: If there are none, or the file is damaged.
    """
    path = folder / "results.jsonl"
    lines = _read_lines(path)
    if len(lines) < 2:
        raise UserError(f"{path} has no finished runs: is {folder} the `out` of an eventful-evaluate?")
    try:
        head, *rows = [json.loads(line) for line in lines]
        entries = [_entry(row) for row in rows]
        setting, metric_name, about = head["setting"], head.get("metric"), dict(head.get("about", {}))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error})") from error
    records = [entry for entry in entries if isinstance(entry, Record)]
    return Finished(setting, metric_name, records, {e.key: e for e in entries if isinstance(e, Latency)}, about)


def fingerprint(setting: Mapping[str, Any]) -> str:
    """Twelve hex digits that differ when anything in the setting does."""
    text = json.dumps([FORMAT, setting], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _read_lines(path: Path) -> list[str]:
    """Complete lines: one that a kill has torn has no end."""
    if not path.exists():
        return []
    try:
        text = path.read_text()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged ({error}); delete it, or choose another out") from error
    return text[: text.rfind("\n") + 1].splitlines()


def _line(entry: Record | Latency) -> str:
    kind, row = ("run" if isinstance(entry, Record) else "latency"), asdict(entry)
    if isinstance(entry, Record):
        # A metric can be undefined on a resample, and JSON has no NaN.
        row["metric_R"] = [None if isnan(value) else value for value in entry.metric_R]
    return json.dumps({"kind": kind} | row, allow_nan=False) + "\n"


def _entry(row: dict[str, Any]) -> Record | Latency:
    kind, key = row.pop("kind"), Key(**row.pop("key"))
    if kind == "run":
        row["metric_R"] = [nan if value is None else value for value in row["metric_R"]]
        return Record(key=key, **row)
    quartiles = {name: tuple(value) for name, value in row.items() if isinstance(value, list)}
    return Latency(key=key, **(row | quartiles))
