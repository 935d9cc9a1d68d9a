"""A paired bootstrap over clips: resamples, means and intervals.

The bootstrap (Efron, 1979) resamples whole clips, because frames of one clip are not independent, and uses the same
resamples for all policies, so that the difference of two policies has a far narrower interval than either of them.
Row 0 of every array with resamples is the sample itself; rows 1 to R are resamples.

Shape suffixes: R resamples (plus the sample itself), U clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Verdict = Literal["win", "tie", "loss"]

LEVEL = 0.95
"""Coverage of all intervals."""


def resample_clips(clips: int, samples: int, seed: int) -> NDArray[np.int64]:
    """Resamples of U clips with replacement (R + 1, U), clip indices; row 0 is 0 to U - 1."""
    drawn_RU = np.random.default_rng(seed).integers(0, clips, (samples, clips))
    return np.concatenate([np.arange(clips)[None], drawn_RU])


def means(value_U: Sequence[float], weight_U: Sequence[float], draws_RU: NDArray[np.int64]) -> Array:
    """Weighted mean over the clips of each resample (R + 1,)."""
    values, weights = np.asarray(value_U, float), np.asarray(weight_U, float)
    return (values * weights)[draws_RU].sum(1) / weights[draws_RU].sum(1)


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; infinite where a threshold is never reached.

    Attributes:
        value: Figure of the sample itself.
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value_R: Array) -> Estimate:
        """Value and percentile interval; resamples in which the figure is undefined (NaN) are left out."""
        resampled = value_R[1:][~np.isnan(value_R[1:])]
        if not len(resampled):
            return cls(float(value_R[0]), float("nan"), float("nan"))
        tail = (1 - LEVEL) / 2
        # Ends are values that occurred: between a number and infinity there is nothing to interpolate.
        low, high = np.quantile(resampled, [tail, 1 - tail], method="closest_observation")
        return cls(float(value_R[0]), float(low), float(high))

    def verdict(self, higher_is_better: bool) -> Verdict:
        """Verdict on a difference, ours minus theirs: a win or a loss if all of it lies on one side of zero."""
        if self.low > 0 or self.high < 0:
            return "win" if (self.low > 0) == higher_is_better else "loss"
        return "tie"
