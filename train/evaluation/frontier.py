"""Statistics of frontiers: quality against compute, with a paired bootstrap over clips.

A frontier is a few measured points (share of the dense MACs, quality), joined by straight lines over log share. The
bootstrap (Efron, 1979) resamples whole clips, because frames of one clip are not independent, and uses the same
resamples for all policies, so that the difference of two policies has a far narrower interval than either of them.
Row 0 of every array with resamples is the sample itself; rows 1 to R are resamples.

Shape suffixes: R resamples (plus the sample itself), U clips, K points of a frontier.
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
        value: From the sample itself.
        low: Lower end of the 95 % interval.
        high: Upper end.
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
        """Of a difference, ours minus theirs: a win or a loss if the whole interval lies on one side of zero."""
        if self.low > 0 or self.high < 0:
            return "win" if (self.low > 0) == higher_is_better else "loss"
        return "tie"


class Frontier:
    """One policy's quality as a function of the share of dense MACs that it spends.

    Args:
        share_RK: Realised shares, positive.
        quality_RK: Quality at each point, for the sample and each resample.
        ends_R4: Where every policy's frontier begins and ends: share and quality of updating nothing, then share and
            quality of the dense model. None for a frontier of measured points alone.

    Raises:
        ValueError: If there is no point, or a share is not positive.
    """

    def __init__(self, share_RK: Array, quality_RK: Array, ends_R4: Array | None = None) -> None:
        if share_RK.shape[1] == 0 or share_RK.shape != quality_RK.shape:
            raise ValueError(f"a frontier needs points, got shares {share_RK.shape}, quality {quality_RK.shape}")
        if not (share_RK > 0).all():
            raise ValueError("shares must be positive: a frontier is drawn over their logarithm")
        self._own = _sorted(np.log(share_RK), quality_RK)
        if ends_R4 is None:
            self._all = self._own
        else:
            shares, qualities = (np.stack([ends_R4[:, i], ends_R4[:, i + 2]], 1) for i in (0, 1))
            log_share = np.concatenate([np.log(shares[:, :1]), np.log(share_RK), np.log(shares[:, 1:])], 1)
            self._all = _sorted(log_share, np.concatenate([qualities[:, :1], quality_RK, qualities[:, 1:]], 1))

    def at(self, share: float) -> Array:
        """Quality at an exact share (R + 1,), interpolated in log share; constant beyond the ends."""
        x = np.log(share)
        return np.array([np.interp(x, xs, ys) for xs, ys in zip(*self._all, strict=True)])

    def area(self, low: float, high: float) -> Array:
        """Mean quality over log share between two shares (R + 1,): the area under the frontier over its width."""
        x0, x1 = np.log(low), np.log(high)
        return np.array([_mean_between(xs, ys, x0, x1) for xs, ys in zip(*self._all, strict=True)])

    def needed(self, target_R: Array, higher_is_better: bool = True) -> Array:
        """Smallest share from which on the quality stays at the target or better (R + 1,).

        Only measured points count: the smallest of them if all are good enough, infinity if the last one is not.
        """
        sign = 1.0 if higher_is_better else -1.0
        rows = zip(*self._own, target_R, strict=True)
        return np.array([np.exp(_stays_above(xs, sign * ys, sign * target)) for xs, ys, target in rows])


def _sorted(log_share_RK: Array, quality_RK: Array) -> tuple[Array, Array]:
    order_RK = np.argsort(log_share_RK, axis=1, kind="stable")
    return np.take_along_axis(log_share_RK, order_RK, 1), np.take_along_axis(quality_RK, order_RK, 1)


def _mean_between(x_K: Array, y_K: Array, x0: float, x1: float) -> float:
    if x0 == x1:
        return float(np.interp(x0, x_K, y_K))
    inside = x_K[(x_K > x0) & (x_K < x1)]
    xs = np.concatenate([[x0], inside, [x1]])
    return float(np.trapezoid(np.interp(xs, x_K, y_K), xs) / (x1 - x0))


def _stays_above(x_K: Array, y_K: Array, target: float) -> float:
    """The x from which on the line through the points stays at or above the target."""
    below = np.flatnonzero(y_K < target)
    if not len(below):
        return float(x_K[0])
    last = int(below[-1])
    if last == len(x_K) - 1:
        return float("inf")
    reach = (target - y_K[last]) / (y_K[last + 1] - y_K[last])
    return float(x_K[last] + reach * (x_K[last + 1] - x_K[last]))
