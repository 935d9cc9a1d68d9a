"""How the vision towers of `transformers` call their parts: one row for each class of tower, none of it imported.

The classes are known by their names, so that this package works without `transformers`, and pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

PACKAGE = "transformers.models."


@dataclass(frozen=True)
class LayerLayout:
    """Names within a layer. Where several are given, one is called after the other.

    Attributes:
        attention: What holds the projections.
        scale: Attribute of it: the factor of the query-key products.
        qkv: Projections to q, k and v.
        proj: From attention outputs to what is added to the tokens.
        mlp: From normed tokens to what is added to the tokens.
        norms: Before attention, and before the MLP.
    """

    attention: str
    scale: str
    qkv: tuple[str, str, str]
    proj: tuple[str, ...]
    mlp: tuple[str, ...]
    norms: tuple[str, str]


@dataclass(frozen=True)
class TowerLayout:
    """Names within a tower.

    Attributes:
        layer: Class of the layers.
        attention: Class of what a layer's `LayerLayout.attention` names.
        within: Names within a layer.
        layers: The list of layers.
        norm: What is applied to all tokens after the layers; None for nothing.
        pre_norm: What is applied to all tokens before the layers; None for nothing.
        rope: Module of rotary embeddings; None for none.
        between: Module of positions that are added after each layer but the last; None for none.
        prefix: Of a configuration, how many class, register and detection tokens there are.
        trailing: How many of these lie behind the patches.
        any_size: Whether frames may have another size than the configuration says.
    """

    layer: str
    attention: str
    within: LayerLayout
    layers: str
    norm: str | None
    pre_norm: str | None = None
    rope: str | None = None
    between: str | None = None
    prefix: Callable[[Any], int] = lambda config: 1
    trailing: Callable[[Any], int] = lambda config: 0
    any_size: bool = False


def _within(
    attention: str, output: str, norms: tuple[str, str], scale: str = "scaling", after: tuple[str, ...] = ("", "")
) -> LayerLayout:
    """A layer with an `mlp`, and q, k, v side by side; `after` are layer scales."""
    q, k, v = (f"{attention}.{name}_proj" for name in "qkv")
    proj, mlp = (
        (name, *filter(None, [last])) for name, last in zip((f"{attention}.{output}", "mlp"), after, strict=True)
    )
    return LayerLayout(attention, scale, (q, k, v), proj, mlp, norms)


_VIT = _within("attention", "o_proj", ("layernorm_before", "layernorm_after"))
_DINO = _within("attention", "o_proj", ("norm1", "norm2"), after=("layer_scale1", "layer_scale2"))
_CLIP = _within("self_attn", "out_proj", ("layer_norm1", "layer_norm2"), "scale")
_YOLOS = LayerLayout(
    attention="attention.attention",
    scale="scaling",
    qkv=("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    proj=("attention.output.dense",),
    mlp=("intermediate", "output.dense"),
    norms=("layernorm_before", "layernorm_after"),
)


def _with_registers(config: Any) -> int:
    return 1 + config.num_register_tokens


def _detections(config: Any) -> int:
    return config.num_detection_tokens


TOWERS: dict[str, TowerLayout] = {
    "ViTModel": TowerLayout("ViTLayer", "ViTAttention", _VIT, "layers", "layernorm"),
    "Dinov2Model": TowerLayout(
        "Dinov2Layer", "Dinov2Attention", _DINO, "encoder.layer", "layernorm", any_size=True
    ),
    "Dinov2WithRegistersModel": TowerLayout(
        "Dinov2WithRegistersLayer", "Dinov2WithRegistersAttention", _DINO, "encoder.layer", "layernorm",
        prefix=_with_registers, any_size=True,
    ),
    "DINOv3ViTModel": TowerLayout(
        "DINOv3ViTLayer", "DINOv3ViTAttention", _DINO, "model.layer", "norm", rope="rope_embeddings",
        prefix=_with_registers, any_size=True,
    ),
    "CLIPVisionModel": TowerLayout(
        "CLIPEncoderLayer", "CLIPAttention", _CLIP, "encoder.layers", None, pre_norm="pre_layrnorm"
    ),
    "SiglipVisionModel": TowerLayout(
        "SiglipEncoderLayer", "SiglipAttention", _CLIP, "encoder.layers", "post_layernorm", prefix=lambda config: 0
    ),
    "YolosModel": TowerLayout(
        "YolosLayer", "YolosSelfAttention", _YOLOS, "encoder.layer", "layernorm", between="encoder.interpolation",
        prefix=lambda config: 1 + _detections(config), trailing=_detections, any_size=True,
    ),
}  # fmt: skip
"""By the class of the tower."""


NOT_SUPPORTED = {
    "Siglip2VisionModel": "takes packed patches of any aspect (NaFlex) in place of frames; SigLIP 2 at a fixed size is "
    "a SiglipVisionModel",
}
"""Towers that are known, and what is in the way."""


def from_transformers(model: nn.Module) -> bool:
    """Whether the class of a module is one of `transformers`' own."""
    return type(model).__module__.startswith(PACKAGE)


def find_tower(model: nn.Module) -> str | None:
    """Name within a model, or "" for the model itself, of its tower; None if it has none.

    A tower counts if it and the model are defined side by side: what other models do with its tokens is not known.
    """
    if not from_transformers(model):
        return None
    for name, module in model.named_modules():
        known = type(module).__name__ in TOWERS or type(module).__name__ in NOT_SUPPORTED
        if known and type(module).__module__ == type(model).__module__:
            return name
    return None
