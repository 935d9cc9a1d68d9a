"""The course of a training run: `OUT/history.jsonl`, one line for each look at the validation clips.

Each line holds `step`, `minutes` (of training alone, warm start included; looking does not count) and the rows of
`train.loop.validation`. `train.curves` draws them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eventful.disk.full import append
from eventful.disk.replaced import replace_text
from eventful.errors import UserError


class History:
    """Appends to a run's file.

    Args:
        folder: Folder of the run.
        step: Step at which the run begins or goes on; what an interrupted run noted after it is dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / "history.jsonl"
        kept = [row for row in read(folder) if row["step"] <= step] if step and self._path.exists() else []
        self._steps = {row["step"] for row in kept}
        replace_text(self._path, "".join(_line(row) for row in kept))

    def has(self, step: int) -> bool:
        """Whether there has been a look at this step."""
        return step in self._steps

    def add(self, step: int, seconds: float, rows: list[dict[str, Any]]) -> None:
        """Notes one look."""
        append(self._path, _line({"step": step, "minutes": seconds / 60, "points": rows}))
        self._steps.add(step)


def read(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run; one that was broken off at the end of the file is left out.

    Raises:
        UserError: If the file is damaged.
        OSError: If there is none.
    """
    path = folder / "history.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        for row in rows:
            if not isinstance(row, dict) or not {"step", "minutes", "points"} <= row.keys():
                raise ValueError(f"{json.dumps(row)[:40]} is no look at the validation clips")
        return rows
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from error


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"
