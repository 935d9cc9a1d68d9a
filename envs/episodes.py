"""Which episodes there are: clips, budgets, and where in a clip a stream begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.task import Clip

MIN_FRAMES = 2
"""A clip's first frame is the flush; at least one must be left to decide on."""


@dataclass(frozen=True)
class Start:
    """Where a stream begins.

    Attributes:
        clip: Index of the clip.
        budget: Target share of the dense MACs.
        frame: Index of the frame that is the flush.
    """

    clip: int
    budget: float
    frame: int = 0


class Episodes:
    """Draws episodes from clips and budgets.

    Args:
        clips: Clips to play.
        budget: Target share of the dense MACs, or a range from which each episode draws, log-uniformly.

    Raises:
        ValueError: If there is no clip, one is too short, or a budget is out of range.
    """

    def __init__(self, clips: Sequence[Clip], budget: float | Sequence[float]) -> None:
        if not clips:
            raise ValueError("there are no clips to play in this split")
        for clip in clips:
            if len(clip) < MIN_FRAMES:
                raise ValueError(f"clip {clip.name!r} has {len(clip)} frames; an episode needs {MIN_FRAMES}")
        self.clips = clips
        self.budgets = _budget_range(budget)

    def sample(self, random: np.random.Generator, options: Mapping[str, Any] | None = None) -> Start:
        """Draws an episode.

        Args:
            random: Random generator of the stream.
            options: Values that are given instead of drawn: `clip` (name or index), `frame` (of the flush), `budget`.

        Raises:
            ValueError: If an option does not exist, or there is no such clip, frame or budget.
        """
        given = dict(options or {})
        # Drawn whether or not they are used, so that an option does not shift what is drawn after it.
        drawn, u = int(random.integers(len(self.clips))), float(random.random())
        low, high = self.budgets
        clip = self._index(given.pop("clip", drawn))
        budget, _ = _budget_range(given.pop("budget", log_uniform(low, high, u)))
        frame = int(given.pop("frame", 0))
        if given:
            raise ValueError(f"reset has no option {next(iter(given))!r}; it has clip, frame and budget")
        if not 0 <= frame <= len(self.clips[clip]) - MIN_FRAMES:
            raise ValueError(f"clip {self.clips[clip].name!r} cannot begin at frame {frame}")
        return Start(clip, budget, frame)

    def _index(self, clip: int | str) -> int:
        if isinstance(clip, str):
            names = [c.name for c in self.clips]
            if clip not in names:
                raise ValueError(f"there is no clip {clip!r}")
            return names.index(clip)
        if not 0 <= clip < len(self.clips):
            raise ValueError(f"there is no clip {clip}; there are {len(self.clips)}")
        return int(clip)


def log_uniform(low: float, high: float, u: float) -> float:
    """A value of a range, uniform in its logarithm if u is uniform in [0, 1)."""
    return low * (high / low) ** u


def _budget_range(budget: float | Sequence[float]) -> tuple[float, float]:
    pair = budget if isinstance(budget, Sequence) else (budget, budget)
    low, high = pair if len(pair) == 2 and not isinstance(pair, str) else (0.0, 0.0)
    if not 0 < low <= high <= 1:
        raise ValueError(f"a budget must be a share of the dense MACs in (0, 1], or a range of them, got {budget}")
    return float(low), float(high)
