"""What an earlier benchmark found, to compare with: speed-ups, which are steadier than times."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eventful.errors import UserError
from train.bench.row import Row

MOST_LOST = 0.1
"""Speed-ups may fall by this share before it is said: medians of the same code differ by some percent."""

SAME = ("model", "processor", "threads", "dtype", "frames")
"""What must be the same for speed-ups to be comparable."""

Case = tuple[int, int, str]
"""Size, number of tokens, mode."""

Earlier = tuple[Mapping[str, Any], Mapping[Case, float]]
"""What an earlier run says of itself, and its speed-ups."""


def read_earlier(path: Path) -> Earlier:
    """What an earlier run says of itself, and its speed-ups.

    Raises:
        UserError: If there is no such file, or it is no benchmark.
    """
    try:
        found = json.loads(path.read_text())
        rows = [row for row in found["rows"] if row["timing"] is not None]
        return dict(found["about"]), {
            (int(row["size"]), int(row["r"]), str(row["mode"])): float(row["timing"]["speedup"][1]) for row in rows
        }
    except OSError as error:
        raise UserError(f"against={path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"against={path} is no benchmark.json: {error}") from error


def fallen(about: Mapping[str, Any], rows: Sequence[Row], earlier: Earlier) -> tuple[list[str], list[str]]:
    """Compares with an earlier run.

    Args:
        about: What this run says of itself.
        rows: Its results.
        earlier: What `read_earlier` returned.

    Returns:
        Differences of machine or settings, for which nothing can be said; a line for each speed-up that has fallen by
        more than `MOST_LOST`.
    """
    then, speedups = earlier
    changed = [name for name in SAME if then.get(name) != about[name]]
    other = [f"{name}: {then.get(name)} before, {about[name]} now" for name in changed]
    lines = []
    for row in rows:
        before = speedups.get((row.size, row.r, row.mode))
        if before is None or row.timing is None:
            continue
        now = row.timing.speedup[1]
        if now < (1 - MOST_LOST) * before:
            lines.append(f"{row.size}/{row.r} {row.mode}: {now:.2f}, {before:.2f} before")
    return other, lines
