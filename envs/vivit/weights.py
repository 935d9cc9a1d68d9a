"""A ViViT on disk: one safetensors file. Its tensors tell all sizes but one; the number of heads is beside them.

Where nothing is said of heads, as in what `python -m envs.convert` makes of published checkpoints, they have 64
channels.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from envs.vivit.model import PATCH, TUBELET, ViViT
from eventful.disk.replaced import replace_file
from eventful.errors import UserError

HEAD = 64
"""Channels of a head, unless the file says how many heads there are."""


@dataclass(frozen=True)
class ViViTSizes:
    """The arguments of `ViViT` that give its weights their shapes; ViViT-B by default.

    Attributes:
        size: Side of the views in pixels.
        classes: Number of classes.
        frames: Number of frames of a view.
        dim: Number of channels.
        heads: Number of attention heads.
        depth: Number of blocks of the spatial part.
        temporal_depth: Number of blocks of the temporal part.
    """

    size: int
    classes: int
    frames: int = 32
    dim: int = 768
    heads: int = 12
    depth: int = 12
    temporal_depth: int = 4

    def on(self, device: torch.device) -> ViViT:
        """A model of these sizes, in evaluation mode; without memory for its weights on the device `meta`."""
        with torch.device(device):
            return ViViT(**dataclasses.asdict(self)).eval()


def save_vivit(vivit: ViViT, path: str | Path) -> None:
    """Writes the weights, whole or not at all."""
    state = {name: tensor.contiguous() for name, tensor in vivit.state_dict().items()}
    heads = {"heads": str(vivit.heads)}
    replace_file(Path(path), lambda partial: safetensors.torch.save_file(state, partial, heads))


def load_vivit(path: str | Path) -> ViViT:
    """Reads what `save_vivit` or `python -m envs.convert` wrote; in evaluation mode.

    Raises:
        UserError: If the file holds no ViViT, or is damaged.
        OSError: If it cannot be read.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"weights file {path} does not exist")
    try:
        with safe_open(path, "pt") as file:
            heads = (file.metadata() or {}).get("heads")
        state = safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise UserError(f"weights file {path} is no safetensors file: {error}") from error
    try:
        vivit = _sizes(state, heads).on(torch.device("meta"))
        vivit.load_state_dict(state, assign=True)
    except (KeyError, ValueError, ZeroDivisionError, RuntimeError) as error:
        raise UserError(
            f"weights file {path} holds no ViViT (`python -m envs.convert` makes such files of published ones): "
            f"{' '.join(str(error).split())}"
        ) from error
    return vivit


def _sizes(state: Mapping[str, Tensor], heads: str | None) -> ViViTSizes:
    positions, times, classifier = (
        state[name] for name in ("spatial.pos_embed", "temporal.pos_embed", "temporal.classifier.weight")
    )
    classes, dim = classifier.shape
    depths = [
        sum(bool(re.fullmatch(rf"{part}\.blocks\.\d+\.norm1\.weight", name)) for name in state)
        for part in ("spatial", "temporal")
    ]
    size, frames = math.isqrt(positions.shape[1] - 1) * PATCH, (times.shape[1] - 1) * TUBELET
    return ViViTSizes(size, classes, frames, dim, int(heads or dim // HEAD), *depths)
