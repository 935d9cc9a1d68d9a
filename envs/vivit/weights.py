"""A ViViT on disk: one safetensors file, with the sizes that make the model among its metadata."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from envs.vivit.model import ViViT
from eventful.errors import UserError

_METADATA = "vivit"


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

    def empty(self) -> ViViT:
        """The model without memory for its weights, in evaluation mode."""
        with torch.device("meta"):
            return ViViT(**dataclasses.asdict(self)).eval()


def save_vivit(vivit: ViViT, path: str | Path) -> None:
    """Writes the weights, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = ViViTSizes(
        vivit.size,
        vivit.temporal.classifier.out_features,
        vivit.frames,
        vivit.spatial.embed_dim,
        vivit.heads,
        len(vivit.spatial.blocks),
        len(vivit.temporal.blocks),
    )
    state = {name: tensor.contiguous() for name, tensor in vivit.state_dict().items()}
    partial = path.with_name(path.name + ".tmp")
    safetensors.torch.save_file(state, partial, {_METADATA: json.dumps(dataclasses.asdict(sizes))})
    os.replace(partial, path)


def load_vivit(path: str | Path) -> ViViT:
    """Reads what `save_vivit` wrote; in evaluation mode.

    Raises:
        UserError: If the file is no such file, or damaged.
        OSError: If it cannot be read.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"weights file {path} does not exist")
    try:
        with safe_open(path, "pt") as file:
            sizes = (file.metadata() or {}).get(_METADATA)
        if sizes is None:
            raise UserError(f"weights file {path} says nothing of a ViViT: `python -m envs.convert` makes such files")
        vivit = ViViTSizes(**json.loads(sizes)).empty()
        vivit.load_state_dict(safetensors.torch.load_file(path), assign=True)
    except (SafetensorError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"weights file {path} cannot be read: {str(error).splitlines()[0]}") from error
    return vivit
