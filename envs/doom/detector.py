"""The dense Doom detector: a `timm` vision transformer whose head is a token-wise detection head.

`vit(frame)` returns (B, 300, classes + 4): class logits and a coded box of each token (`envs.doom.boxes`).
The patch embedding is a short stack of convolutions (`eventful.families.stem`).

Shape suffixes: B streams, N tokens, D channels, X outputs of a token.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from envs.doom.boxes import GRID, INPUT_SIZE, PATCH
from envs.doom.labels import CLASS_NAMES
from eventful.disk.replaced import replace_file
from eventful.families.stem import conv_stem

WEIGHTS = Path(__file__).parent / "weights" / "detector.safetensors"
"""The weights that ship with the package."""

_DIM, _DEPTH, _HEADS = 192, 6, 3


class ConvEmbed(PatchEmbed):
    """timm's patch embedding with a stack of convolutions."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.patch_size != (PATCH, PATCH):
            raise ValueError(f"ConvEmbed has patches of {PATCH} pixels, asked for {self.patch_size}")
        width = self.proj.out_channels
        self.proj = conv_stem(width)  # type: ignore[assignment]  # timm has a single convolution here


class DetectionHead(nn.Module):
    """Class logits and a coded box for every token: a two-layer MLP on (B, N, D)."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, dim)
        self.act = nn.GELU()
        self.out = nn.Linear(dim, classes + 4)
        nn.init.zeros_(self.out.bias)
        # Initial scores of 1 %, as focal losses want (Lin et al. 2017).
        nn.init.constant_(self.out.bias[:classes], -math.log(99.0))
        nn.init.normal_(self.out.weight, std=0.01)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Tokens (B, N, D) to (B, N, classes + 4)."""
        return self.out(self.act(self.hidden(x_BND)))


def build_detector(dim: int = _DIM, depth: int = _DEPTH, heads: int = _HEADS) -> VisionTransformer:
    """A detector with random weights."""
    vit = VisionTransformer(
        img_size=INPUT_SIZE,
        patch_size=PATCH,
        num_classes=0,
        global_pool="",
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        class_token=False,
        embed_layer=ConvEmbed,
    )
    vit.pos_embed = nn.Parameter(0.3 * _sine_positions(dim))
    vit.head = DetectionHead(dim, len(CLASS_NAMES))  # type: ignore[assignment]  # timm has a classifier here
    vit.num_classes = len(CLASS_NAMES) + 4
    return vit


def _sine_positions(dim: int) -> Tensor:
    """Sines and cosines (1, N, D) of rows and columns, a better start than noise for short training."""
    frequencies = torch.exp(torch.linspace(0, -math.log(100.0), dim // 4))
    rows, columns = torch.meshgrid(torch.arange(GRID[0]), torch.arange(GRID[1]), indexing="ij")
    parts = []
    for place in (rows, columns):
        angle = place.reshape(-1, 1) * frequencies
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, 1).unsqueeze(0)


def save_detector(vit: nn.Module, path: Path) -> None:
    """Writes the weights in half precision, whole or not at all."""
    state = {name: value.half().contiguous() for name, value in vit.state_dict().items()}
    replace_file(path, lambda partial: save_file(state, partial))


def load_detector(path: Path | str | None = None) -> VisionTransformer:
    """The trained detector in single precision, in eval mode.

    Args:
        path: Safetensors file of the weights; those that ship with the package if None.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If the file is damaged or holds another model.
    """
    path = WEIGHTS if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no detector weights at {path}; reinstall the package or train: python -m train.detector"
        )
    vit = build_detector()
    try:
        weights = load_file(path)
        vit.load_state_dict({name: value.float() for name, value in weights.items()})
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"detector weights at {path} are damaged or of another model ({reason}); "
            "reinstall the package or train them with: python -m train.detector"
        ) from error
    return vit.eval()
