"""Results of sequences on disk: a folder for each row, in it one file of JSON lines for each process.

A line is written when its sequence is done, and is found again by the sequence's name whichever process wrote it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eventful.disk.replaced import replace_text
from eventful.errors import UserError
from train.paper.rows import Row


@dataclass(frozen=True)
class SequenceResult:
    """What a sequence came to.

    Attributes:
        sequence: Its name.
        frames: Number of frames.
        macs: Multiply-accumulates of all frames, the flush included, as the authors' counters count them.
        detections: For each frame rows of box (xyxy, pixels of the canvas), score and class.
    """

    sequence: str
    frames: int
    macs: float
    detections: list[list[list[float]]]


class Results:
    """The results of one table.

    Args:
        folder: Folder of the table.
        setting: What all results depend on, plain data.

    Raises:
        UserError: If the folder has results of another setting.
    """

    def __init__(self, folder: Path, setting: dict[str, Any]) -> None:
        self._folder = folder / "results"
        self._folder.mkdir(parents=True, exist_ok=True)
        path = folder / "setting.json"
        if not path.exists():
            replace_text(path, json.dumps(setting, indent=1))
        before = json.loads(path.read_text())
        changed = sorted(key for key in before.keys() | setting.keys() if before.get(key) != setting.get(key))
        if changed:
            raise UserError(f"{folder} has results of another setting ({', '.join(changed)}): give another out=FOLDER")

    def of_row(self, row: Row) -> dict[str, SequenceResult]:
        """All results of a row by sequence, whoever computed them; a line that was cut off does not count."""
        found: dict[str, SequenceResult] = {}
        for path in sorted(self._place(row).glob("*.jsonl")):
            for line in path.read_text().splitlines(keepends=True):
                if line.endswith("\n"):
                    result = SequenceResult(**json.loads(line))
                    found.setdefault(result.sequence, result)
        return found

    def add(self, row: Row, rank: int, result: SequenceResult) -> None:
        """Appends a result to the file of a process."""
        path = self._place(row) / f"{rank}.jsonl"
        path.parent.mkdir(exist_ok=True)
        with path.open("ab+") as file:
            _cut_broken_line(file)
            file.write((json.dumps(asdict(result)) + "\n").encode())

    def _place(self, row: Row) -> Path:
        return self._folder / row.name.replace(":", "_")


def _cut_broken_line(file: Any) -> None:
    """Takes off what an interrupted process has left behind the last whole line."""
    file.seek(0)
    content = file.read()
    file.truncate(content.rfind(b"\n") + 1)
