"""A small ViTDet detector with the weights, and the video, that the authors' own code was run with.

Weights are a function of a tensor's name in the authors' state dict, frames a function of place and time in integers,
so that whoever has the two rules has the same model and the same video.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable

import numpy as np
import torch
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor

from envs.convert.names import convert
from envs.convert.vitdet import AUTHORS
from envs.vitdet.canvas import Canvas
from envs.vitdet.detector import VID_CLASSES, DetectionHead, with_head
from envs.vitdet.roi_heads import SingleStage
from eventful.families.vitdet import vitdet

Shapes = dict[str, tuple[int, ...]]

SMALL = dict(dim=48, depth=4, positions=7, window=6, global_blocks=(1, 3))


def authors_shapes(
    dim: int = 768,
    depth: int = 12,
    head_dim: int = 0,
    positions: int = 14,
    window: int = 14,
    relative: int = 64,
    global_blocks: tuple[int, ...] = (2, 5, 8, 11),
) -> Shapes:
    """Names and shapes of the authors' state dict, as published for ViTDet-B."""
    d = head_dim or (64 if dim == 768 else dim // 3)
    shapes: Shapes = {
        "embedding.conv.weight": (dim, 3, 16, 16),
        "embedding.conv.bias": (dim,),
        "backbone.position_encoding.encoding": (1, positions**2, dim),
    }
    for i in range(depth):
        entries = 2 * (relative if i in global_blocks else window) - 1
        block = {
            "input_layer_norm": (dim,),
            "qkv": (3 * dim, dim),
            "projection": (dim, dim),
            "mlp_layer_norm": (dim,),
            "mlp_1": (4 * dim, dim),
            "mlp_2": (dim, 4 * dim),
        }
        for name, shape in block.items():
            shapes |= _layer(f"backbone.blocks.{i}.{name}", shape)
        for axis in "yx":
            shapes[f"backbone.blocks.{i}.relative_position.{axis}_embedding"] = (entries, d)
    return shapes | _pyramid(dim) | _heads()


def _layer(name: str, shape: tuple[int, ...], bias: int | None = None) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": (bias or shape[0],)}


def _pyramid(dim: int) -> Shapes:
    half, quarter = dim // 2, dim // 4
    shapes = _layer("pyramid.stages.0.0", (dim, half, 2, 2), half) | _layer("pyramid.stages.0.1", (half,))
    shapes |= _layer("pyramid.stages.0.3", (half, quarter, 2, 2), quarter)
    shapes |= _layer("pyramid.stages.1.0", (dim, half, 2, 2), half)
    for stage, first, channels in ((0, 4, quarter), (1, 1, half), (2, 0, dim), (3, 1, dim)):
        for i, shape in enumerate([(256, channels, 1, 1), (256,), (256, 256, 3, 3), (256,)]):
            name = f"pyramid.stages.{stage}.{first + i}"
            shapes |= _layer(name, shape) if len(shape) == 1 else {f"{name}.weight": shape}
    return shapes


def _heads() -> Shapes:
    shapes: Shapes = {}
    for name, shape in {
        "conv.conv0": (256, 256, 3, 3),
        "conv.conv1": (256, 256, 3, 3),
        "objectness_logits": (3, 256, 1, 1),
        "anchor_deltas": (12, 256, 1, 1),
    }.items():
        shapes |= _layer(f"proposal_generator.rpn_head.{name}", shape)
    return shapes | _box_head("roi_heads.box_head") | _predictor("roi_heads.box_predictor", 31, 120)


def _box_head(name: str) -> Shapes:
    shapes = _layer(f"{name}.fc1", (1024, 256 * 49))
    for i in range(1, 5):
        shapes |= {f"{name}.conv{i}.weight": (256, 256, 3, 3)} | _layer(f"{name}.conv{i}.norm", (256,))
    return shapes


def _predictor(name: str, scores: int, deltas: int) -> Shapes:
    return _layer(f"{name}.cls_score", (scores, 1024)) | _layer(f"{name}.bbox_pred", (deltas, 1024))


def cascade_heads() -> Shapes:
    """Names and shapes of what the COCO checkpoint has in place of `roi_heads`."""
    shapes: Shapes = {}
    for i in range(3):
        shapes |= _box_head(f"roi_heads.box_head.{i}") | _predictor(f"roi_heads.box_predictor.{i}", 81, 4)
    mask = "roi_heads.mask_head"
    for i in range(1, 5):
        shapes |= {f"{mask}.mask_fcn{i}.weight": (256, 256, 3, 3)} | _layer(f"{mask}.mask_fcn{i}.norm", (256,))
    return shapes | _layer(f"{mask}.deconv", (256, 256, 2, 2)) | _layer(f"{mask}.predictor", (80, 256, 1, 1))


def golden_weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor by its name in the authors' state dict."""
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith(("position_encoding.encoding", "y_embedding", "x_embedding")):
        values = 0.2 * values
    elif len(shape) > 1:
        values = values / np.sqrt(np.prod(shape[1:]))
    else:
        values = 1 + 0.1 * values if name.endswith("weight") else 0.1 * values
    return torch.from_numpy(values.astype(np.float32))


def small_backbone(kv_pool: int = 1, relative: int = 20, device: torch.device | str = "cpu") -> VisionTransformerSAM:
    """The backbone of the small detector, with random weights: 20 x 20 tokens, windows of 6."""
    with torch.device(device):
        return vitdet(320, 48, 4, 3, 6, (1, 3), kv_pool, position_side=7, relative_side=relative).eval()


def small_model(device: torch.device | str = "cpu", proposals: int = 300) -> VisionTransformerSAM:
    """The small detector, with random weights."""
    with torch.device(device):
        return with_head(small_backbone(), DetectionHead(48, proposals, SingleStage(VID_CLASSES)))


def golden_backbone(kv_pool: int = 1, relative: int = 20) -> VisionTransformerSAM:
    """The backbone with the golden weights, which come in by the authors' names."""
    shapes = authors_shapes(**SMALL, relative=relative)  # type: ignore[arg-type]
    arrays = {n: golden_weight(n, shape) for n, shape in shapes.items() if n.startswith(("embedding", "backbone"))}
    return _filled(arrays, lambda device: small_backbone(kv_pool, relative, device))


def golden_model() -> VisionTransformerSAM:
    """The small detector with the golden weights."""
    shapes = authors_shapes(**SMALL, relative=20)  # type: ignore[arg-type]
    return _filled({name: golden_weight(name, shape) for name, shape in shapes.items()}, small_model)


def _filled(arrays: dict[str, Tensor], make: Callable[[torch.device], VisionTransformerSAM]) -> VisionTransformerSAM:
    model = make(torch.device("cpu"))
    model.load_state_dict(convert(arrays, [dataclasses.replace(AUTHORS, model=make)], "golden weights").state)
    return model


def golden_frame(t: int, height: int = 256, width: int = 320) -> Tensor:
    """Frame t of the video, uint8 (1, height, width, 3)."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    v = 7 * x + 13 * y + 31 * c + (x * y) // (5 + c) + (31 * x + 17 * y + 7 * c + t * (5 * x + 3 * y + 11)) % 9
    top, left = height // 6 + 8 * t, width // 5 + 16 * t
    inside = (y >= top) & (y < top + height // 4) & (x >= left) & (x < left + width // 4)
    return torch.from_numpy((np.where(inside, 11 * x + 3 * y + 97 * c + 50 * t, v) % 256).astype(np.uint8))[None]


class Unscaled(Canvas):
    """A canvas of 320 pixels on which frames keep their size."""

    def __init__(self) -> None:
        super().__init__(320)

    def scale(self, size: tuple[int, int]) -> float:
        return 1.0


def golden_input(t: int) -> Tensor:
    """Frame t on its canvas (1, 3, 320, 320)."""
    return Unscaled().prepare(golden_frame(t))


def probes(x: Tensor, count: int = 6) -> Tensor:
    """Values at evenly spread places of the flattened tensor."""
    flat = x.flatten()
    return flat[[i * (len(flat) - 1) // (count - 1) for i in range(count)]]
