"""Holds a frame rate by turning the budget at every frame.

    share <- share + gain * (1 / rate - late / horizon - seconds) / (seconds per share)

Integral control of the time that a frame takes, whose gain is what the machine turns out to need for a share of the
dense MACs: a step removes `GAIN` of what is missing, whatever the machine, and as long as the estimate is right within
a factor of three it cannot oscillate. Seconds are the median of the last three frames, so that one hiccup moves
nothing; the time that it took is made up for within the horizon, about a second. What a share costs is learned from the
frames themselves: a line through their shares and seconds, old frames forgotten.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence

from eventful.errors import UserError

GAIN = 0.5
"""Part of the missing time that one frame makes up for."""

HORIZON = 1.0
"""Seconds in which frames that came late are made up for."""

MOST_LATE = 0.5
"""Seconds of delay, or of lead, beyond which no more is remembered: a machine that was too slow is not pushed later."""

MEMORY = 0.95
"""What a frame counts for when another has come, in the estimate of what a share costs."""

WINDOW = 2.0
"""Seconds over which the rate is judged."""

SETTLING = 1.0
"""Seconds that are not judged, after the first frame."""

TOLERANCE = 0.1
"""How far a window's rate may be off."""

LEAST = 0.01
"""Smallest share that is asked for."""

SPREAD = 1e-4
"""Variance of the shares below which they say nothing about costs."""


class Pace:
    """A budget for each frame, so that frames come at a rate.

    Args:
        rate: Frames per second.
        start: Budget of the first frames.

    Attributes:
        rate: Frames per second.
        budget: For the next frame, a share of the dense MACs.

    Raises:
        UserError: If the rate is not positive, or the budget no share.
    """

    def __init__(self, rate: float, start: float = 0.1) -> None:
        if not 0 < rate < math.inf:
            raise UserError(f"a frame rate must be positive, got {rate}")
        if not 0 < start <= 1:
            raise UserError(f"a budget is a share of the dense MACs in (0, 1], got {start}")
        self.rate, self.budget = rate, start
        self._last: deque[float] = deque(maxlen=3)
        self._cost: float | None = None
        self._late = self._pause = 0.0
        self._line = _Line()
        self._judged = _Windows(rate)

    def note(self, seconds: float, share: float, flush: bool = False) -> None:
        """Tells how long a frame took, everything included, and which share of the dense MACs it came to.

        A flush says what a share costs at most, and nothing about the frames to come.
        """
        seconds, self._pause = max(seconds - self._pause, 0.0), 0.0
        self._judged.add(seconds, self.budget)
        if flush:
            self._cost = self._cost or seconds / max(share, LEAST)
            return
        self._line.add(share, seconds)
        self._last.append(seconds)
        period = 1 / self.rate
        self._late = min(max(self._late + seconds - period, -MOST_LATE), MOST_LATE)
        cost = self._line.slope() or self._cost
        if cost is None:
            return
        wanted = period * (1 - self._late / max(HORIZON, 3 * period))
        missing = wanted - statistics.median(self._last)
        self.budget = min(max(self.budget + GAIN * missing / cost, LEAST), 1.0)

    def leave_out(self, seconds: float) -> None:
        """Leaves a pause out of the time of the next frame."""
        self._pause += seconds

    def summary(self) -> str:
        """How well the rate was held, in one line."""
        return self._judged.line()


def window_rates(ends: Sequence[float], first: float, last: float, window: float = WINDOW) -> list[float]:
    """Frames per second in every window between two times.

    Args:
        ends: When each frame was done, in seconds.
        first: Time from which on windows begin, each of them where a frame ends.
        last: Time before which they end.
        window: Length of a window in seconds; it goes on to the end of the frame that it falls into.
    """
    found = []
    for k, start in enumerate(ends):
        if first <= start and start + window <= last:
            n = next((n for n in range(k, len(ends)) if ends[n] - start >= window), None)
            if n is not None:
                found.append((n - k) / (ends[n] - start))
    return found


class _Windows:
    """Whether the rate was held, by windows one after another."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._elapsed = -SETTLING
        self._frames = self._inside = self._windows = 0
        self._budgets = self._seen = 0.0

    def add(self, seconds: float, budget: float) -> None:
        self._elapsed += seconds
        self._budgets, self._seen = self._budgets + budget, self._seen + 1
        if self._elapsed <= 0:
            return
        self._frames += 1
        if self._elapsed >= WINDOW:
            self._windows += 1
            self._inside += abs(self._frames / self._elapsed / self._rate - 1) <= TOLERANCE
            self._frames, self._elapsed = 0, 0.0

    def line(self) -> str:
        mean = f"mean budget {self._budgets / max(self._seen, 1):.1%}"
        return (
            f"{self._rate:g} frames/s were asked for: held within {TOLERANCE:.0%} in {self._inside} of {self._windows} "
            f"windows of {WINDOW:g} s, {mean}"
        )


class _Line:
    """Least squares through points of which old ones are forgotten."""

    def __init__(self) -> None:
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, x: float, y: float) -> None:
        self._weight, self._x, self._y, self._xx, self._xy = (
            MEMORY * held + new
            for held, new in zip(
                (self._weight, self._x, self._y, self._xx, self._xy), (1.0, x, y, x * x, x * y), strict=True
            )
        )

    def slope(self) -> float | None:
        """None where the points tell nothing, or nonsense."""
        if not self._weight:
            return None
        variance = self._xx / self._weight - (self._x / self._weight) ** 2
        if variance < SPREAD:
            return None
        slope = (self._xy / self._weight - self._x * self._y / self._weight**2) / variance
        return slope if slope > 0 else None
