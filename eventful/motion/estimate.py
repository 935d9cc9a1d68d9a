"""How far the picture as a whole has moved from one frame to the next: phase correlation.

Kuglin and Hines, "The Phase Correlation Image Alignment Method" (1975): the cross-power spectrum of two pictures of
which one is the other, moved, is a pure phase; its inverse transform has a peak where the motion is. Pictures are made
small first, `SAMPLES` grey values along a token's side, so that the estimate costs next to nothing.

Shape suffixes: B streams, Y rows, X columns.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLES = 4
"""Grey values along the side of a token."""

LEAST_PEAK = 7.0
"""Height of the peak below which nothing is said to have moved, in standard deviations of what pictures without
anything in common would give: 1 / sqrt(n) for n values, of which the largest is near 4."""

STEP = 1 / 32
"""Motion is rounded to multiples of so many tokens: a picture that stands still does so exactly."""

LARGEST = 0.25
"""Motion beyond this share of the picture's side is not believed."""


def small_picture(frame: Tensor, grid: tuple[int, int]) -> Tensor:
    """Frames (B, 3, H, W) to grey pictures (B, Y, X), float32, of `SAMPLES` values along the side of a token."""
    grey_BHW = frame.float().mean(1)
    return F.adaptive_avg_pool2d(grey_BHW, (grid[0] * SAMPLES, grid[1] * SAMPLES))


def global_motion(now_BYX: Tensor, before_BYX: Tensor) -> Tensor:
    """How far the picture has moved between two frames.

    Args:
        now_BYX: Grey picture.
        before_BYX: The one before it.

    Returns:
        (B, 2) float32, rows and columns in tokens: what is at y now was at y - motion before. Zero for streams in which
        no motion stands out.
    """
    Y, X = now_BYX.shape[-2:]
    window_YX = _hann(Y, now_BYX)[:, None] * _hann(X, now_BYX)
    now, before = (torch.fft.rfft2(_centred(x_BYX) * window_YX) for x_BYX in (now_BYX, before_BYX))
    cross = now * before.conj()
    phase = cross / cross.abs().clamp(min=torch.finfo(torch.float32).tiny)
    peaks_BYX = torch.fft.irfft2(phase, s=(Y, X))
    height_B, at_B = peaks_BYX.flatten(1).max(1)
    row_B, column_B = at_B // X, at_B % X
    motion_B2 = torch.stack(
        [_refined(peaks_BYX, row_B, column_B, axis, size) for axis, size in ((1, Y), (2, X))], dim=1
    )
    limits_2 = LARGEST * torch.tensor([Y, X], device=motion_B2.device)
    believed_B = (height_B >= LEAST_PEAK / math.sqrt(Y * X)) & (motion_B2.abs() <= limits_2).all(1)
    motion_B2 = (motion_B2 / (SAMPLES * STEP)).round() * STEP
    return torch.where(believed_B[:, None], motion_B2, torch.zeros_like(motion_B2))


def motion_macs(grid: tuple[int, int]) -> float:
    """MACs of `global_motion` per stream: three real transforms of n values, at n log2(n) each."""
    values = grid[0] * grid[1] * SAMPLES**2
    return 3.0 * values * math.log2(values)


def _centred(x_BYX: Tensor) -> Tensor:
    return x_BYX - x_BYX.mean((1, 2), keepdim=True)


def _hann(size: int, like: Tensor) -> Tensor:
    """Fades towards the border: a picture does not go on at its other side."""
    return torch.hann_window(size, periodic=False, device=like.device)


def _refined(peaks_BYX: Tensor, row_B: Tensor, column_B: Tensor, axis: int, size: int) -> Tensor:
    """The peak's place along an axis (B,), signed, between two values by the parabola through its neighbours."""
    stream_B = torch.arange(peaks_BYX.shape[0], device=peaks_BYX.device)
    place_B = row_B if axis == 1 else column_B

    def at(step: int) -> Tensor:
        moved_B = (place_B + step) % size
        return peaks_BYX[stream_B, moved_B, column_B] if axis == 1 else peaks_BYX[stream_B, row_B, moved_B]

    left_B, middle_B, right_B = at(-1), at(0), at(1)
    curvature_B = (2 * middle_B - left_B - right_B).clamp(min=torch.finfo(torch.float32).tiny)
    between_B = ((right_B - left_B) / (2 * curvature_B)).clamp(-0.5, 0.5)
    signed_B = torch.where(place_B > size // 2, place_B - size, place_B)
    return signed_B + between_B
