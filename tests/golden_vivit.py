"""The ViViT of the golden figures: its names and shapes, and the rules by which its weights and frames are made."""

import dataclasses
import zlib

import numpy as np
import torch
from torch import Tensor

from envs.convert.names import Layout
from envs.convert.vivit import LAYOUTS
from envs.vivit.weights import ViViTSizes

SMALL = ViViTSizes(64, 97, frames=8, dim=48, heads=3, depth=3, temporal_depth=2)
"""The model of the golden figures."""

Shapes = dict[str, tuple[int, ...]]
AUTHORS = ["input_layer_norm", "qkv", "projection", "mlp_layer_norm", "mlp_1", "mlp_2"]
TADACONV = ["norm", "attn.to_qkv", "attn.proj", "norm_ffn", "ffn.net.0", "ffn.net.3"]


def small_layout(index: int = 1) -> Layout:
    """A layout for the model of the golden figures; by the names of Eventful Transformers unless said otherwise."""
    return dataclasses.replace(LAYOUTS[index], model=SMALL.on)


def authors_shapes(sizes: ViViTSizes) -> Shapes:
    """By the names of Eventful Transformers."""
    dim, tokens, steps = sizes.dim, (sizes.size // 16) ** 2, sizes.frames // 2
    shapes: Shapes = _both("embedding.conv", dim, 3, 2, 16, 16)
    for part, entries, depth in (("spatial", tokens, sizes.depth), ("temporal", steps, sizes.temporal_depth)):
        shapes[f"{part}_model.class_token"] = (1, 1, dim)
        shapes[f"{part}_model.backbone.position_encoding.encoding"] = (1, entries + 1, dim)
        shapes |= _blocks(f"{part}_model.backbone.blocks", AUTHORS, depth, dim)
        shapes |= _both(f"{part}_model.layer_norm", dim)
    return shapes | _both("classifier", sizes.classes, dim)


def tadaconv_shapes(sizes: ViViTSizes, head: str) -> Shapes:
    """By the names of TAdaConv; `head` is that of the classifier."""
    dim = sizes.dim
    shapes: Shapes = _both("backbone.stem.conv1", dim, 3, 2, 16, 16)
    shapes |= {"backbone.cls_token": (1, 1, dim), "backbone.cls_token_out": (1, 1, dim)}
    shapes |= {"backbone.pos_embd": (1, (sizes.size // 16) ** 2 + 1, dim)}
    shapes |= {"backbone.temp_embd": (1, sizes.frames // 2 + 1, dim)}
    shapes |= _blocks("backbone.layers", TADACONV, sizes.depth, dim)
    shapes |= _blocks("backbone.layers_temporal", TADACONV, sizes.temporal_depth, dim)
    shapes |= _both("backbone.norm", dim) | _both("backbone.norm_out", dim) | _both(head, sizes.classes, dim)
    return shapes | (_both("head.linear2", 300, dim) if head == "head.linear1" else {})


def _blocks(name: str, layers: list[str], depth: int, dim: int) -> Shapes:
    outputs: list[tuple[int, ...]] = [(dim,), (3 * dim, dim), (dim, dim), (dim,), (4 * dim, dim), (dim, 4 * dim)]
    shapes: Shapes = {}
    for i in range(depth):
        for layer, shape in zip(layers, outputs, strict=True):
            shapes |= _both(f"{name}.{i}.{layer}", *shape)
    return shapes


def _both(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


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
