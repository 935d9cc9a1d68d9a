"""When frames are shown: what a source says of it, made into times that ascend from 0.

Containers count in ticks of their own from any start; some give no times at all (raw streams, AVI in part), live
sources jump, damaged files repeat a time. What is right is kept as it is.
"""

from __future__ import annotations

from fractions import Fraction

STEP_S = Fraction(1, 1000)
"""Least distance of two frames, in seconds: the tick of the coarsest container (Matroska)."""

JUMP_S = 1
"""A clock that falls back by more than this many seconds has been set anew; by less, a single time is wrong."""


class FrameClock:
    """Seconds from the first frame of a source to each.

    Args:
        fps: Frames per second, for frames without a time.

    Attributes:
        origin: Time of the first frame by the source's own clock, in seconds; None as long as none has had a time.
    """

    def __init__(self, fps: float) -> None:
        self._period = 1 / Fraction(fps).limit_denominator(1001)
        self._last: Fraction | None = None
        self.origin: Fraction | None = None

    def at(self, stamp: Fraction | None) -> float:
        """Seconds from the first frame to the next one.

        Args:
            stamp: Time of the next frame by the source's own clock, in seconds; None where the source gives none.
        """
        expected = Fraction(0) if self._last is None else self._last + self._period
        if stamp is None:
            time = expected
        elif self.origin is None or self._fell_back(stamp):
            time, self.origin = expected, stamp - expected
        else:
            time = stamp - self.origin
        if self._last is not None and time <= self._last:
            time = self._last + STEP_S
        self._last = time
        return float(time)

    def _fell_back(self, stamp: Fraction) -> bool:
        return self._last is not None and self.origin is not None and stamp - self.origin < self._last - JUMP_S


def plausible_fps(rate: Fraction | None, tick: Fraction | None) -> float | None:
    """Frames per second that a container states; None where it states its clock's ticks, for want of a rate.

    Args:
        rate: Stated frames per second.
        tick: The container's unit of time, in seconds.
    """
    if not rate or (tick and tick <= STEP_S and rate * tick >= 1):
        return None
    return float(rate)
