"""Frontiers: quality as a function of compute.

A frontier is a few measured points (share of the dense MACs, quality), joined by straight lines over log share, for the
sample and for each resample of the bootstrap (`train.evaluation.bootstrap`).

Shape suffixes: R resamples (plus the sample itself), K points of a frontier.
"""

from __future__ import annotations

import numpy as np

from train.evaluation.bootstrap import Array


class Frontier:
    """One policy's quality as a function of the share of dense MACs that it spends.

    Args:
        share_RK: Realised share at each point, positive, for the sample and each resample.
        quality_RK: Quality at each point, for the sample and each resample.
        ends_R4: Ends of every policy's frontier: share and quality of updating nothing, then share and
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

    @property
    def points(self) -> tuple[Array, Array]:
        """Shares and qualities of the measured points (R + 1, K), by share."""
        return np.exp(self._own[0]), self._own[1]

    def at(self, share: float | Array) -> Array:
        """Quality at an exact share, or at one for each resample (R + 1,), interpolated in log share.

        Constant beyond the ends.
        """
        x_R = np.broadcast_to(np.log(share), len(self._all[0]))
        return np.array([np.interp(x, xs, ys) for x, xs, ys in zip(x_R, *self._all, strict=True)])

    def area(self, low: float, high: float) -> Array:
        """Mean quality over log share between two shares (R + 1,): the area under the frontier over its width."""
        x0, x1 = np.log(low), np.log(high)
        return np.array([_mean_between(xs, ys, x0, x1) for xs, ys in zip(*self._all, strict=True)])

    def needed(self, target_R: Array, higher_is_better: bool = True, ends: bool = False) -> Array:
        """Smallest share from which on the quality stays at the target or better (R + 1,).

        Only measured points count: the smallest of them if all are good enough, infinity if the last one is not.

        Args:
            target_R: Quality that is asked for.
            higher_is_better: Its direction.
            ends: Whether the ends count, too.
        """
        sign = 1.0 if higher_is_better else -1.0
        rows = zip(*(self._all if ends else self._own), target_R, strict=True)
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
