"""Frames of any size as a timm model wants them.

They are resized without regard to their aspect ratio, as uint8, so that cached clips and live video give the model
exactly the same pixels, and normalised by the model's own data config.

Shape suffixes: B streams, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import timm.data
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ModelInput:
    """Size and statistics of a model's input.

    Args:
        model: A timm model.
        image_size: (height, width); the model's own if None.

    Attributes:
        size: (height, width).
        key: Changes with anything that changes the resized frames.
    """

    def __init__(self, model: nn.Module, image_size: Sequence[int] | None = None) -> None:
        data = timm.data.resolve_model_data_config(model)
        fixed = getattr(getattr(model, "patch_embed", None), "img_size", None)
        height, width = image_size or fixed or data["input_size"][-2:]
        self.size: tuple[int, int] = (height, width)
        self._mean, self._std = torch.tensor(data["mean"]), torch.tensor(data["std"])
        # timm's other choices (lanczos, random) are not offered by F.interpolate.
        self._interpolation = "bilinear" if data["interpolation"] == "bilinear" else "bicubic"
        self.key = f"{height}x{width} {self._interpolation}"

    def resize(self, frames_BHWC: Tensor) -> Tensor:
        """uint8 frames of any size to uint8 frames of the model's input size."""
        if tuple(frames_BHWC.shape[1:3]) == self.size:
            return frames_BHWC
        x_BCHW = frames_BHWC.permute(0, 3, 1, 2)
        if not frames_BHWC.is_cpu:
            # Only CPUs resize bytes as such, as Pillow does: many times faster, and within two levels of this.
            x_BCHW = x_BCHW.float()
        x_BCHW = F.interpolate(x_BCHW, self.size, mode=self._interpolation, antialias=True)
        if x_BCHW.is_floating_point():
            x_BCHW = x_BCHW.round_().clamp_(0, 255).to(torch.uint8)
        return x_BCHW.permute(0, 2, 3, 1)

    def preprocess(self, frames_BHWC: Tensor) -> Tensor:
        """uint8 RGB frames (B, H, W, 3) of any size to model input (B, 3, H', W'), on the same device.

        Raises:
            ValueError: If the frames are not uint8 or not of that shape.
        """
        if frames_BHWC.dtype != torch.uint8 or frames_BHWC.dim() != 4 or frames_BHWC.shape[-1] != 3:
            raise ValueError(
                f"frames must be uint8 of shape (B, H, W, 3), got {frames_BHWC.dtype} {tuple(frames_BHWC.shape)}"
            )
        device = frames_BHWC.device
        x_BCHW = self.resize(frames_BHWC).permute(0, 3, 1, 2)
        x_BCHW = x_BCHW.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        mean_C11, std_C11 = (x.to(device)[:, None, None] for x in (self._mean, self._std))
        return x_BCHW.sub_(mean_C11).div_(std_C11)
