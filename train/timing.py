"""Seconds of a call on a frame, on any device, and how such times are summed up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

Quartiles = tuple[float, float, float]
"""Lower quartile, median, upper quartile."""


def timed(call: Callable[[Tensor], Any], frame: Tensor) -> float:
    """Seconds that a call takes."""
    wait(frame)
    started = time.perf_counter()
    call(frame)
    wait(frame)
    return time.perf_counter() - started


def wait(frame: Tensor) -> None:
    """Returns when the frame's device has done all that it was given."""
    if frame.is_cuda:
        torch.cuda.synchronize(frame.device)


def quartiles(values: np.ndarray) -> Quartiles:
    """Lower quartile, median, upper quartile."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return float(low), float(middle), float(high)
