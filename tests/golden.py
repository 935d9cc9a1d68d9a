"""The rules by which the weights and frames of golden figures are made: random numbers by name, pictures by formula."""

import zlib

import numpy as np
import torch
from torch import Tensor


def golden_weight(name: str, shape: torch.Size) -> Tensor:
    """A tensor of the published models, by the name that Eventful Transformers gives it."""
    random = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith(("position_encoding.encoding", "y_embedding", "x_embedding", "class_token")):
        value = 0.2 * random
    elif len(shape) == 1:
        value = 1 + 0.1 * random if name.endswith("weight") else 0.1 * random
    else:
        value = random / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.float32(value))


def golden_frames(frames: int, height: int, width: int) -> Tensor:
    """A textured picture with a moving square (T, 3, H, W), uint8."""
    t, c, y, x = np.ogrid[:frames, :3, :height, :width]
    v = 7 * x + 13 * y + 31 * c + (x * y) // (5 + c) + (31 * x + 17 * y + 7 * c + t * (5 * x + 3 * y + 11)) % 9
    top, left = height // 6 + 8 * t, width // 5 + 16 * t
    square = (top <= y) & (y < top + height // 4) & (left <= x) & (x < left + width // 4)
    return torch.from_numpy((np.where(square, 11 * x + 3 * y + 97 * c + 50 * t, v) % 256).astype(np.uint8))
