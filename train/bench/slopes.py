"""How the time of a frame grows: with the selected tokens M by a line, with all tokens N by a power."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from train.bench.row import Row


@dataclass(frozen=True)
class Slope:
    """Medians of one mode, fitted by least squares.

    Attributes:
        mode: Name of the mode, or "dense".
        over: What grows: "M", selected tokens at one size; "N", tokens of a frame at one number of selected ones.
        fixed: The size in pixels over M; the number M over N, 0 for the dense model.
        points: Number of cases.
        start: Over M: ms of a frame that selects nothing, extrapolated. Over N: ms at N = 1000 by the power law.
        slope: Over M: ms for each further token. Over N: exponent of N.
    """

    mode: str
    over: Literal["M", "N"]
    fixed: int
    points: int
    start: float
    slope: float


def slopes(rows: Sequence[Row]) -> list[Slope]:
    """Fits to all modes that were timed at three or more M of one size, or at two or more N."""
    timed = [(row, row.timing) for row in rows if row.timing is not None]
    found = []
    for mode, size in dict.fromkeys((row.mode, row.size) for row, _ in timed):
        ms = {row.r: timing.ms[1] for row, timing in timed if (row.mode, row.size) == (mode, size)}
        if len(ms) > 2:
            slope, start = np.polyfit(list(ms), list(ms.values()), 1)
            found.append(Slope(mode, "M", size, len(ms), float(start), float(slope)))
    by_tokens: dict[tuple[str, int], dict[int, float]] = {}
    for row, timing in timed:
        by_tokens.setdefault((row.mode, row.r), {})[row.tokens] = timing.ms[1]
        by_tokens.setdefault(("dense", 0), {}).setdefault(row.tokens, timing.dense_ms[1])
    for (mode, r), ms in by_tokens.items():
        if len(ms) > 1:
            exponent, start = np.polyfit(np.log(np.array(list(ms)) / 1000), np.log(list(ms.values())), 1)
            found.append(Slope(mode, "N", r, len(ms), float(np.exp(start)), float(exponent)))
    return found
