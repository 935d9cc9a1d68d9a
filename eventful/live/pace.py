"""Holds a frame rate by turning the budget at every frame.

    budget <- budget + gain * (1 / rate - seconds) / (seconds per budget)
    gain = 1 - exp(-(seconds of a frame) / TIME_CONSTANT), at most 1/2

Integral control of the time that a frame takes, with one time constant in seconds whatever the rate. The sum of what
frames were late is the way that the budget has gone, so that neither hiccups nor skewed times shift the rate; and
nothing is made up for that a budget at its limit could not help: who was early at the whole budget is not made late.
What a share costs is learned from the frames themselves, a line through their shares and seconds, and what a budget
comes to in shares is, too; old frames are forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from eventful.errors import UserError

TIME_CONSTANT = 0.2
"""Seconds in which all but a third of what is missing is made up for; also, a budget grows or falls by a factor of e at
most in them."""

MOST_GAIN = 0.5
"""Part of the missing time that one frame makes up for at most: costs may be underrated by a factor of three."""

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

COMES_TO = (0.25, 4.0)
"""Bounds of what is believed of the shares that a budget comes to, over the budget."""

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
        self._whole = math.inf
        self._pause = 0.0
        self._line = _Line()
        self._asked = self._realised = 0.0
        self._judged = _Windows(rate)

    def note(self, seconds: float, share: float, flush: bool = False) -> None:
        """Tells how long a frame took, everything included, and which share of the dense MACs it came to.

        A flush says what a share costs at most, and nothing about the frames to come.
        """
        seconds, self._pause = max(seconds - self._pause, 0.0), 0.0
        self._judged.add(seconds, self.budget)
        if flush:
            self._whole = min(self._whole, seconds / max(share, LEAST))
            return
        self._line.add(share, seconds)
        self._asked = MEMORY * self._asked + self.budget
        self._realised = MEMORY * self._realised + share
        # As long as all frames had one share, all that is known is that a share costs no more than this.
        cost = self._line.slope() or min(seconds / max(share, LEAST), self._whole)
        low, high = COMES_TO
        cost *= min(max(self._realised / self._asked, low), high)
        # Not this frame's own time, or frames that are late would count for more than those that are early.
        typical = max(1 / self.rate, self._line.mean)
        gain = min(-math.expm1(-typical / TIME_CONSTANT), MOST_GAIN)
        wanted = self.budget + gain * (1 / self.rate - seconds) / cost
        most = 1 + gain
        wanted = min(max(wanted, self.budget / most), self.budget * most)
        self.budget = min(max(wanted, LEAST), 1.0)

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
    """Whether the rate was held, by windows one after another; of those that were not, where no budget would help."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._elapsed = -SETTLING
        self._frames = self._inside = self._windows = self._too_fast = self._too_slow = 0
        self._budgets = self._seen = 0.0

    def add(self, seconds: float, budget: float) -> None:
        self._elapsed += seconds
        self._budgets, self._seen = self._budgets + budget, self._seen + 1
        if self._elapsed <= 0:
            return
        self._frames += 1
        if self._elapsed >= WINDOW:
            excess = self._frames / self._elapsed / self._rate - 1
            self._windows += 1
            self._inside += abs(excess) <= TOLERANCE
            self._too_fast += excess > TOLERANCE and budget == 1
            self._too_slow += excess < -TOLERANCE and budget <= LEAST
            self._frames, self._elapsed = 0, 0.0

    def line(self) -> str:
        parts = [
            f"{self._rate:g} frames/s were asked for: held within {TOLERANCE:.0%} in {self._inside} of {self._windows} "
            f"windows of {WINDOW:g} s"
        ]
        if self._too_fast:
            parts.append(f"faster at the whole budget in {self._too_fast}")
        if self._too_slow:
            parts.append(f"slower at the smallest budget in {self._too_slow}")
        return ", ".join([*parts, f"mean budget {self._budgets / max(self._seen, 1):.1%}"])


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

    @property
    def mean(self) -> float:
        """Of the y."""
        return self._y / self._weight

    def slope(self) -> float | None:
        """None where the points tell nothing, or nonsense."""
        if not self._weight:
            return None
        variance = self._xx / self._weight - (self._x / self._weight) ** 2
        if variance < SPREAD:
            return None
        slope = (self._xy / self._weight - self._x * self._y / self._weight**2) / variance
        return slope if slope > 0 else None
