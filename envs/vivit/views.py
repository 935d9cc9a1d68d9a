"""From a video to the views that a ViViT is shown: clips at several times, cropped at several places.

As evaluated in Eventful Transformers (ICCV 2023): 32 frames at a stride, 4 starts spread over the video, 3 crops, and
pixels that are normalised before they are resized, as floating point numbers with antialiasing. Frames are made when
they are asked for, so that memory does not grow with the video: a step of 12 views needs 8 frames.

Shape suffixes: V views, T frames, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from envs.vivit.model import TUBELET, tubelets

MEAN, STD = 0.45, 0.225
"""Of all channels, for pixels in [0, 1]."""


class Frames(Protocol):
    """The frames of a video, in memory or read when they are asked for; a tensor (T, 3, H, W) is one of its kind."""

    def __len__(self) -> int:
        """Number of frames."""

    def __getitem__(self, index_T: Tensor) -> Tensor:
        """The frames with these indices, int64, as uint8 RGB (T, 3, H, W)."""


@dataclass(frozen=True)
class ViewPlan:
    """Which views of a video there are.

    Attributes:
        size: Side of a view in pixels.
        stride: Frames of the video from one frame of a view to the next.
        frames: Frames of a view, an even number.
        starts: Number of times at which views start.
        crops: Number of places at which frames are cropped.

    Raises:
        ValueError: If one of them is less than 1, or the number of frames is not even.
    """

    size: int
    stride: int
    frames: int = 32
    starts: int = 4
    crops: int = 3

    def __post_init__(self) -> None:
        least = min(self.size, self.stride, self.frames, self.starts, self.crops)
        if least < 1:
            raise ValueError(f"size, stride, frames, starts and crops must be at least 1, got {self}")
        if self.frames % TUBELET:
            raise ValueError(f"views must consist of tubelets of {TUBELET} frames, got {self.frames} frames")

    @property
    def views(self) -> int:
        """Number V of views."""
        return self.starts * self.crops


def frame_indices(length: int, plan: ViewPlan) -> Tensor:
    """Frames of a video that its views show (starts, T), int64; a short video's last frame is repeated.

    Args:
        length: Number n of frames of the video.
        plan: Plan of the views, of T * stride frames each. Start i of k is at i * (n - T * stride) / (k - 1), rounded
            down; a single one in the middle.

    Raises:
        ValueError: If the video is empty.
    """
    if length < 1:
        raise ValueError("a video without frames has no views")
    spare = max(length - plan.frames * plan.stride, 0)
    first = torch.tensor([_spread(i, plan.starts, spare) for i in range(plan.starts)])
    return (first[:, None] + torch.arange(plan.frames) * plan.stride).clamp(max=length - 1)


def scaled(frames_TCHW: Tensor, size: int) -> Tensor:
    """Frames as the model takes them: normalised, then resized until the shorter side has `size` pixels.

    Args:
        frames_TCHW: RGB frames, uint8.
        size: Length of the shorter side.

    Returns:
        (T, 3, H', W') float32.

    Raises:
        ValueError: If the frames are not (T, 3, H, W) uint8.
    """
    if frames_TCHW.dim() != 4 or frames_TCHW.shape[1] != 3 or frames_TCHW.dtype != torch.uint8:
        raise ValueError(f"frames must be (T, 3, H, W) uint8, got {tuple(frames_TCHW.shape)} {frames_TCHW.dtype}")
    x_TCHW = (frames_TCHW.float() / 255 - MEAN) / STD
    height, width = x_TCHW.shape[-2:]
    scale = max(size / height, size / width)
    if scale == 1:
        return x_TCHW
    sides = (round(scale * height), round(scale * width))
    return F.interpolate(x_TCHW, sides, mode="bilinear", align_corners=False, antialias=True)


def cropped(frames_TCHW: Tensor, plan: ViewPlan) -> Tensor:
    """Square crops along the diagonal (crops, T, C, size, size): the corners and what lies between, or the middle."""
    size, (height, width) = plan.size, frames_TCHW.shape[-2:]
    corners = [(_spread(i, plan.crops, height - size), _spread(i, plan.crops, width - size)) for i in range(plan.crops)]
    return torch.stack([frames_TCHW[..., y : y + size, x : x + size] for y, x in corners])


def views(video: Frames, plan: ViewPlan) -> Tensor:
    """All views of a video at once (V, T, 3, size, size), float32: all starts of the first crop, then of the next."""
    return _frames_of_views(video, frame_indices(len(video), plan), plan, None)


def view_steps(video: Frames, plan: ViewPlan, device: torch.device | None = None) -> Iterator[Tensor]:
    """The steps of all views of a video, for `envs.vivit.encode`, made one by one.

    Args:
        video: The video.
        plan: Plan of the views.
        device: Where frames are resized and views are wanted; where the frames are if None.

    Yields:
        Tubelets (V, 6, size, size), float32.
    """
    for index in frame_indices(len(video), plan).split(TUBELET, 1):
        yield from tubelets(_frames_of_views(video, index, plan, device))


def _frames_of_views(video: Frames, index: Tensor, plan: ViewPlan, device: torch.device | None) -> Tensor:
    """The frames with these indices (starts, t) in all crops (V, t, 3, size, size)."""
    frames_TCHW = scaled(video[index.flatten()].to(device), plan.size)
    return cropped(frames_TCHW, plan).unflatten(1, index.shape).flatten(0, 1)


def _spread(i: int, count: int, spare: int) -> int:
    """Place i of `count` that are spread over 0 to `spare`, the middle if there is one alone."""
    return spare // 2 if count == 1 else int(i * spare / (count - 1))
