"""Motion that the consumer does not care for, added to footage for controlled tests.

Frame t of a video is altered in the same way whatever clip or split it is in: all is drawn from the seed and t.

Shape suffixes: H height, W width, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from envs.footage import Alteration
from eventful.errors import UserError
from eventful.tasks import nearest


class Picture:
    """A picture in the picture, that flickers: coloured patches in the lower left corner, new ones in every frame.

    It takes a quarter of the frame's height and of its width, and keeps a sixteenth away from the border.

    Args:
        seed: Seed of the colours.
    """

    patches = (6, 8)

    def __init__(self, seed: int) -> None:
        self._seed, self.key = seed, f"picture 1 {seed}"

    def __call__(self, frame_HWC: Tensor, t: int) -> Tensor:
        """See `Alteration`."""
        H, W = frame_HWC.shape[:2]
        height, width, bottom, left = H // 4, W // 4, H - H // 16, W // 16
        colours = torch.randint(0, 256, (1, 3, *self.patches), generator=_generator(self._seed, t)).float()
        picture = F.interpolate(colours, (height, width), mode="nearest")[0].to(torch.uint8)
        altered_HWC = frame_HWC.clone()
        altered_HWC[bottom - height : bottom, left : left + width] = picture.permute(1, 2, 0)
        return altered_HWC


class Shake:
    """A camera that shakes: whole frames shifted by up to four pixels a side, border pixels repeated.

    The way of the camera is, for each direction, a sum of three waves with periods of 3 to 12 frames.

    Args:
        seed: Seed of periods and phases.
    """

    pixels = 4
    periods = (3.0, 12.0)

    def __init__(self, seed: int) -> None:
        self.key = f"shake 1 {seed}"
        low, high = self.periods
        random = torch.rand(2, 2, 3, generator=_generator(seed, 0), dtype=torch.float64)
        self._period, self._phase = low + (high - low) * random[0], 2 * math.pi * random[1]

    def shift(self, t: int) -> tuple[int, int]:
        """Pixels of the model's input (down, right) by which frame t is shifted."""
        wave = torch.sin(2 * math.pi * t / self._period + self._phase).mean(1)
        down, right = (self.pixels * wave).round().long().tolist()
        return down, right

    def __call__(self, frame_HWC: Tensor, t: int) -> Tensor:
        """See `Alteration`."""
        H, W = frame_HWC.shape[:2]
        down, right = self.shift(t)
        rows = (torch.arange(H) - down).clamp(0, H - 1)
        columns = (torch.arange(W) - right).clamp(0, W - 1)
        return frame_HWC[rows][:, columns]


DISTRACTORS: Mapping[str, Callable[[int], Alteration | None]] = {
    "none": lambda seed: None,
    "picture": Picture,
    "shake": Shake,
}


def distractor_named(name: str, seed: int) -> Alteration | None:
    """The distractor of that name, None for `none`.

    Raises:
        UserError: If there is no such distractor, or the seed is negative.
    """
    if name not in DISTRACTORS:
        raise UserError(f"distractor must be {', '.join(DISTRACTORS)}, got {name!r}{nearest(name, DISTRACTORS)}")
    if seed < 0:
        raise UserError(f"distractor_seed must be at least 0, got {seed}")
    return DISTRACTORS[name](seed)


def _generator(seed: int, t: int) -> torch.Generator:
    """One for each frame of each seed, for videos of up to a million frames."""
    return torch.Generator().manual_seed(seed * 1_000_003 + t)
