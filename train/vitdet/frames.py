"""Single frames drawn from many videos, as random views on a canvas.

Shape suffixes: B frames, H height, W width, E side of the canvas.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from envs.task import Target
from envs.vid.images import read_image
from envs.vid.sequences import VidFrame
from envs.vitdet.canvas import Canvas
from train.recipe.views import cut, flip, rarity_weights, recolour, uniform

_LEAST_SIDE = 1.0


class RandomFrames:
    """Batches of random views.

    Args:
        frames: Frames to draw from, those with rare classes more often.
        classes: Number of classes.
        canvas: The canvas.
        scales: Smallest and largest size of a view over that of a frame on the canvas.
    """

    def __init__(self, frames: Sequence[VidFrame], classes: int, canvas: Canvas, scales: tuple[float, float]) -> None:
        self._frames, self._canvas, self._scales = frames, canvas, scales
        self._weights = rarity_weights([frame.target["labels"] for frame in frames], classes)

    def batch(self, count: int, generator: torch.Generator) -> tuple[Tensor, list[Target]]:
        """Input of a detector (B, 3, E, E), and the objects in it, in pixels of the canvas.

        Raises:
            VideoError: If a frame cannot be read.
        """
        chosen = torch.multinomial(self._weights, count, replacement=True, generator=generator).tolist()
        views = [self.view(read_image(self._frames[k].path), self._frames[k].target, generator) for k in chosen]
        return torch.cat([x_13EE for x_13EE, _ in views]), [target for _, target in views]

    def view(self, frame_HWC: Tensor, target: Target, generator: torch.Generator) -> tuple[Tensor, Target]:
        """A random view of a frame (1, 3, E, E): recoloured, scaled, cut where it leaves the canvas, mirrored.

        Objects of which a cut leaves less than 40 % are gone.
        """
        height, width = frame_HWC.shape[:2]
        low, high = self._scales
        scale = low * (high / low) ** uniform(generator) * self._canvas.scale((height, width))
        size = (round(height * scale), round(width * scale))
        x_13HW = recolour(frame_HWC[None], generator).permute(0, 3, 1, 2).float()
        x_13HW = F.interpolate(x_13HW, size, mode="bilinear", antialias=True, align_corners=False)
        h, w = (min(side, self._canvas.side) for side in size)
        top, left = int(uniform(generator) * (size[0] - h + 1)), int(uniform(generator) * (size[1] - w + 1))
        view_1HW3 = x_13HW[..., top : top + h, left : left + w].permute(0, 2, 3, 1)
        seen = cut({**target, "boxes": target["boxes"] * scale}, (left, top, w, h), _LEAST_SIDE)
        if uniform(generator) < 0.5:
            view_1HW3, (seen,) = flip(view_1HW3, [seen])
        return self._canvas.lay(view_1HW3.permute(0, 3, 1, 2)), seen
