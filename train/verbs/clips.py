"""Clips to train on, small and in memory, and the views of clips to be scored.

Shape suffixes: T frames, V views, C colours, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from envs.actions import ActionClip
from envs.vivit import ViewPlan
from envs.vivit.views import views
from eventful.console.output import progress
from eventful.errors import UserError


@dataclass(frozen=True)
class LabelledTensors:
    """Something of each clip, and its class.

    Attributes:
        tensors: Frames (T, 3, H, W), uint8, or views (V, T, 3, H, W), float32.
        labels: Numbers of classes.
    """

    tensors: Sequence[Tensor]
    labels: Sequence[int]


def small_clips(clips: Sequence[ActionClip], side: int, least: int) -> LabelledTensors:
    """All frames of clips, their shorter side scaled to `side` pixels.

    A clip of 32 frames at 72 x 96 pixels takes 0.7 MB.

    Args:
        clips: The clips.
        side: Length of the shorter side.
        least: Number of frames that a clip must have.

    Raises:
        UserError: If a clip is too short.
        VideoError: If one cannot be read.
    """
    small = []
    for clip in progress(clips, "reading clips", unit="clip"):
        frames = clip.frames()
        if len(frames) < least:
            raise UserError(f"{clip.path} has {len(frames)} frames, a view takes {least}")
        x_TCHW = frames[torch.arange(len(frames))]
        height, width = x_TCHW.shape[-2:]
        scale = side / min(height, width)
        size = (round(scale * height), round(scale * width))
        small.append(F.interpolate(x_TCHW, size, mode="bilinear", align_corners=False, antialias=True))
        frames.close()
    return LabelledTensors(small, [clip.label for clip in clips])


def views_of(clips: Sequence[ActionClip], plan: ViewPlan) -> LabelledTensors:
    """The views of clips, as everybody else shows them to a ViViT."""
    made = []
    for clip in progress(clips, "reading clips", unit="clip"):
        frames = clip.frames()
        made.append(views(frames, plan))
        frames.close()
    return LabelledTensors(made, [clip.label for clip in clips])
