"""Random views of labelled clips: a time, a crop, brightness, mirrored and backwards where the class says what that is.

A mirrored turn to the left is one to the right, and walking forward, shown backwards, is walking back: such views get
the label of what they show.

Shape suffixes: B clips, T frames, C colours, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from envs.vivit.views import MEAN, STD
from eventful.errors import UserError
from train.verbs.clips import LabelledTensors

SMALLEST_CROP = 0.8
"""Smallest side of a crop over the shorter side of the frames."""

BACKWARDS: Mapping[str, str] = {
    "idle": "idle",
    "forward": "back",
    "back": "forward",
    "strafe_left": "strafe_right",
    "strafe_right": "strafe_left",
    "turn_left": "turn_right",
    "turn_right": "turn_left",
}
"""What a class is when its frames come in reverse order; the others have no such views."""


def mirrored_labels(classes: Sequence[str]) -> list[int]:
    """The class that each becomes in a mirror: `left` and `right` in names change places.

    Raises:
        UserError: If there is a left without its right, or the reverse.
    """
    swap = {"left": "right", "right": "left"}
    found = []
    for name in classes:
        other = "_".join(swap.get(word, word) for word in name.split("_"))
        if other not in classes:
            raise UserError(f"class {name} would be {other} in a mirror, and there is no such class")
        found.append(classes.index(other))
    return found


def backward_labels(classes: Sequence[str]) -> list[int | None]:
    """The class that each becomes backwards; None where nothing is known of that."""
    return [classes.index(other) if (other := BACKWARDS.get(name)) in classes else None for name in classes]


class RandomViews:
    """Batches of random views.

    Args:
        clips: Clips of at least as many frames as a view.
        classes: Names of the classes.
        size: Side of a view in pixels.
        frames: Frames of a view, which follow each other.

    Raises:
        UserError: If a class has no mirror image.
    """

    def __init__(self, clips: LabelledTensors, classes: Sequence[str], size: int, frames: int) -> None:
        self._clips, self._size, self._frames = clips, size, frames
        self._mirrored, self._backward = mirrored_labels(classes), backward_labels(classes)

    def batch(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Views of random clips (B, T, 3, size, size), float32 and normalised, and their labels (B,)."""
        chosen = torch.randint(len(self._clips.labels), (count,), generator=generator).tolist()
        made = [self.view(self._clips.tensors[k], self._clips.labels[k], generator) for k in chosen]
        return torch.stack([x_TCHW for x_TCHW, _ in made]), torch.tensor([label for _, label in made])

    def view(self, frames_TCHW: Tensor, label: int, generator: torch.Generator) -> tuple[Tensor, int]:
        """A random view of one clip, and its label."""
        chance = torch.rand(8, generator=generator).tolist()
        start = int(chance[0] * (len(frames_TCHW) - self._frames + 1))
        x_TCHW = frames_TCHW[start : start + self._frames]
        height, width = x_TCHW.shape[-2:]
        side = round((SMALLEST_CROP + (1 - SMALLEST_CROP) * chance[1]) * min(height, width))
        top, left = int(chance[2] * (height - side + 1)), int(chance[3] * (width - side + 1))
        x_TCHW = x_TCHW[..., top : top + side, left : left + side].float()
        x_TCHW = F.interpolate(x_TCHW, (self._size, self._size), mode="bilinear", align_corners=False, antialias=True)
        if chance[4] < 0.5:
            x_TCHW, label = x_TCHW.flip(-1), self._mirrored[label]
        backward = self._backward[label]
        if chance[5] < 0.5 and backward is not None:
            x_TCHW, label = x_TCHW.flip(0), backward
        gain, bias = 0.7 + 0.7 * chance[6], 0.1 * (chance[7] - 0.5)
        return ((x_TCHW / 255 * gain + bias).clamp(0, 1) - MEAN) / STD, label
