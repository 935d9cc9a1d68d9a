"""Results as JSON lines: one object a frame."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from eventful.errors import UserError
from eventful.video.runner import FrameResult


def open_lines(path: str | None, stack: contextlib.ExitStack) -> TextIO | None:
    """The file to write to, which the stack closes; standard output for `-`."""
    if path is None:
        return None
    if path == "-":
        return sys.stdout
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return stack.enter_context(open(path, "w", encoding="utf-8"))


def write_line(result: FrameResult, file: TextIO, **facts: Any) -> None:
    """Writes one frame's result, at once, and further facts before it.

    Raises:
        UserError: If the disk is full; the lines before are there.
    """
    try:
        print(json.dumps(facts | record(result), allow_nan=False), file=file, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        # A full disk, whose errors name no file. The line stays in the buffer: closing would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
        raise UserError(f"{file.name} cannot be written: {error.strerror}") from error


def record(result: FrameResult) -> dict[str, Any]:
    """A frame's result as one JSON object; numbers that are not finite, which JSON has not, are null."""
    values: dict[str, Any] = {
        "frame": result.index,
        "time": None if result.time is None else round(result.time, 6),
        "flush": result.flush,
        "macs": result.macs,
        "macs_ratio": round(result.macs_ratio, 6),
        "budget": result.budget,
        "updated": round(result.updated, 6),
        "milliseconds": round(1000 * result.seconds, 3),
        "predictions": result.predictions,
    }
    if result.dense is not None:
        values["dense"] = {
            "distance": result.dense.distance,
            "worst": result.dense.worst,
            "milliseconds": round(1000 * result.dense.seconds, 3),
        }
    finite: dict[str, Any] = _finite(values)
    return finite


def _finite(value: Any) -> Any:
    """Plain data with None in place of NaN and infinities."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
