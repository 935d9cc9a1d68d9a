"""The square canvas that frames lie on, as the published VID models were fed.

A frame is resized, normalised, and filled up at the bottom and on the right with zeros, which are the mean colour. For
a canvas of E pixels the short edge becomes 640 E // 1024, unless the long edge would be longer than E.

Shape suffixes: B streams, H height, W width of a frame, E side of the canvas; a trailing 4 is a box.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SHORT, _LONG = 640, 1024
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
"""Of the pixels, 0 to 255, of each colour."""


class Canvas:
    """Brings frames and boxes to a canvas, and boxes back.

    Args:
        side: E.

    Raises:
        ValueError: If the side is not positive.
    """

    def __init__(self, side: int) -> None:
        if side < 1:
            raise ValueError(f"the side of a canvas must be positive, got {side}")
        self.side = side

    def scale(self, size: tuple[int, int]) -> float:
        """By how much frames of (height, width) are enlarged; boxes are multiplied by it."""
        return min(_SHORT * self.side // _LONG / min(size), self.side / max(size))

    def fitted(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of frames of (height, width) on the canvas."""
        scale = self.scale(size)
        return round(scale * size[0]), round(scale * size[1])

    def resize(self, frames_BHWC: Tensor) -> Tensor:
        """uint8 RGB frames (B, H, W, 3) at their size on the canvas, uint8 (B, 3, ., .), channels first.

        Raises:
            ValueError: If the frames are not uint8 or not of that shape.
        """
        if frames_BHWC.dtype != torch.uint8 or frames_BHWC.dim() != 4 or frames_BHWC.shape[-1] != 3:
            raise ValueError(
                f"frames must be uint8 of shape (B, H, W, 3), got {frames_BHWC.dtype} {tuple(frames_BHWC.shape)}"
            )
        x_BCHW = frames_BHWC.permute(0, 3, 1, 2)
        size = (frames_BHWC.shape[1], frames_BHWC.shape[2])
        if self.scale(size) == 1:
            return x_BCHW
        # Computed in float and rounded after: the resizing of uint8 itself can differ by one level.
        resized = F.interpolate(x_BCHW.float(), self.fitted(size), mode="bilinear", antialias=True, align_corners=False)
        return resized.round().clamp(0, 255).to(torch.uint8)

    def prepare(self, frames_BHWC: Tensor) -> Tensor:
        """uint8 RGB frames (B, H, W, 3) to input of the detector (B, 3, E, E), on the same device."""
        return self.lay(self.resize(frames_BHWC))

    def lay(self, x_BCHW: Tensor) -> Tensor:
        """Frames (B, 3, ., .) of pixels 0 to 255 at their size on the canvas, normalised and filled up (B, 3, E, E)."""
        mean, std = (torch.tensor(x, device=x_BCHW.device).view(3, 1, 1) for x in (MEAN, STD))
        # Divided and multiplied again, as published: the last bit is theirs, too.
        x_BCHW = (x_BCHW.float() / 255 * 255 - mean) / std
        return F.pad(x_BCHW, (0, self.side - x_BCHW.shape[-1], 0, self.side - x_BCHW.shape[-2]))

    def place(self, boxes_4: Tensor, size: tuple[int, int]) -> Tensor:
        """Boxes (..., 4) in pixels of frames of (height, width), in pixels of the canvas."""
        return boxes_4 * self.scale(size)

    def lift(self, boxes_4: Tensor, size: tuple[int, int]) -> Tensor:
        """Boxes (..., 4) in pixels of the canvas, in pixels of frames of (height, width), cut at the frame's edges."""
        height, width = size
        lifted = (boxes_4 / self.scale(size)).clamp(min=0)
        return torch.minimum(lifted, lifted.new_tensor([width, height, width, height]))
