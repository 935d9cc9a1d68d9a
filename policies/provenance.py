"""What a checkpoint says of its origin: the task and the options that the policy was trained with.

On disk it is the entry `provenance` of `config.json`: `{"format": 1, "task": {"name": ..., ...}, "options": {...}}`,
`"policy"` for classes of a user's own, `"objective": {...}`, `"backbone"` and `"command"`. Version 0.1 wrote the same
without a format; versions that know nothing of an entry read the others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_TEXTS = ("policy", "backbone", "command")
FORMAT = 1
"""Raised when the meaning of an entry changes."""

CARD_TEMPLATE = """---
{{ card_data }}
---

# Token selection for a vision transformer

Decides which tokens are computed anew in each frame of a video. `policies.load(FOLDER)` loads it, and
`eventful-infer VIDEO --policy FOLDER --budget 0.2 --out OUT` runs it. Task, model and command of its training are in
`config.json`. What it is worth has not been measured here: `eventful-evaluate configs/evaluate.yaml policy=FOLDER
out=EVALUATION`, then `python -m train.card policy=FOLDER evaluation=EVALUATION`, write it into this card.
"""
"""Model card of a checkpoint that nobody has evaluated."""


@dataclass(frozen=True)
class Provenance:
    """Where a policy comes from, for whoever loads it.

    Attributes:
        task: Name of the task; empty if it is not known.
        task_options: Plain data that the task was built with.
        options: Keyword arguments of `eventful.wrap`, such as the granularity.
        policy: Class of the policy, `MODULE:CLASS`; empty for those of this package.
        objective: What it was trained to keep: weights of the kinds of damage; empty if they are not known.
        backbone: Content hash of the weights of the model that it was trained in; empty if it is not known.
        command: Command line of its training; empty if it is not known.
    """

    task: str = ""
    task_options: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    policy: str = ""
    objective: Mapping[str, float] = field(default_factory=dict)
    backbone: str = ""
    command: str = ""

    @classmethod
    def of(cls, value: Provenance | Mapping[str, Any] | None) -> Provenance:
        """The record that a checkpoint holds; one that is ready-made as it is, an empty one for None.

        Raises:
            ValueError: If it is of another format, or no such record; the message says what is wrong with it.
        """
        if value is None or isinstance(value, Provenance):
            return value or cls()
        if not isinstance(value, Mapping):
            raise ValueError(f"provenance must be a table, got {value!r}")
        known = value.get("format", FORMAT)
        if known != FORMAT:
            raise ValueError(f"provenance has format {known!r}, this version reads {FORMAT}: update eventful-policies")
        tables = [value.get(name) or {} for name in ("task", "options", "objective")]
        if not all(isinstance(table, Mapping) for table in tables):
            raise ValueError("provenance must hold tables `task`, `options` and `objective`")
        try:
            task, options, objective = json.loads(json.dumps([dict(table) for table in tables]))
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"provenance must be plain data: {error}") from error
        texts = {"task": task.pop("name", "")} | {entry: value.get(entry, "") for entry in _TEXTS}
        for entry, text in texts.items():
            if not isinstance(text, str):
                raise ValueError(f"provenance must name its {entry} by a text, got {text!r}")
        for kind, weight in objective.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
                raise ValueError(f"provenance: the objective's {kind} must be a number, got {weight!r}")
        name = texts.pop("task")
        return cls(name, task, options, objective=objective, **texts)

    def to_dict(self) -> dict[str, Any]:
        """The plain data that `of` reads."""
        task = {"name": self.task, **self.task_options} if self.task else {}
        kept = {"format": FORMAT, "task": task, "options": dict(self.options)}
        own: dict[str, Any] = {"objective": dict(self.objective)} | {entry: getattr(self, entry) for entry in _TEXTS}
        return kept | {name: entry for name, entry in own.items() if entry}


def class_name(kind: type) -> str:
    """`MODULE:CLASS` of a class of the user's own, empty for those of this package."""
    own = kind.__module__.split(".")[0] == __package__
    return "" if own else f"{kind.__module__}:{kind.__qualname__}"
