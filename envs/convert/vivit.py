"""Names of the published ViViT-B checkpoints: of Eventful Transformers' code, and of TAdaConv, where they were trained.

The tuned files of Eventful Transformers have the names of its other ones. TAdaConv's checkpoint for EPIC-Kitchens has a
second head, of nouns, which the paper does not use.

Shape suffixes: D channels, C colours, T frames of a tubelet, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from envs.convert.names import Layout, Rule
from envs.vivit.model import ViViT
from envs.vivit.weights import ViViTSizes

_AUTHORS_LAYERS = {
    "input_layer_norm": "norm1",
    "qkv": "attn.qkv",
    "projection": "attn.proj",
    "mlp_layer_norm": "norm2",
    "mlp_1": "mlp.fc1",
    "mlp_2": "mlp.fc2",
}
_TADACONV_LAYERS = {
    "norm": "norm1",
    r"attn\.to_qkv": "attn.qkv",
    r"attn\.proj": "attn.proj",
    "norm_ffn": "norm2",
    r"ffn\.net\.0": "mlp.fc1",
    r"ffn\.net\.3": "mlp.fc2",
}


def _blocks(theirs: str, ours: str, layers: Mapping[str, str]) -> list[Rule]:
    """The layers of the blocks that are called `theirs.NUMBER` and `ours.NUMBER`."""
    return [(rf"{theirs}\.(\d+)\.{layer}\.", rf"{ours}.\1.{own}.") for layer, own in layers.items()]


AUTHORS_RULES: Sequence[Rule] = [
    (r"embedding\.conv\.", "spatial.patch_embed.proj."),
    (r"(spatial|temporal)_model\.class_token$", r"\1.cls_token"),
    (r"(spatial|temporal)_model\.backbone\.position_encoding\.encoding$", r"\1.pos_embed"),
    *_blocks(r"spatial_model\.backbone\.blocks", "spatial.blocks", _AUTHORS_LAYERS),
    *_blocks(r"temporal_model\.backbone\.blocks", "temporal.blocks", _AUTHORS_LAYERS),
    (r"(spatial|temporal)_model\.layer_norm\.", r"\1.norm."),
    (r"classifier\.", "temporal.classifier."),
]

_TADACONV_RULES: Sequence[Rule] = [
    (r"backbone\.stem\.conv1\.", "spatial.patch_embed.proj."),
    (r"backbone\.cls_token$", "spatial.cls_token"),
    (r"backbone\.pos_embd$", "spatial.pos_embed"),
    *_blocks(r"backbone\.layers", "spatial.blocks", _TADACONV_LAYERS),
    (r"backbone\.norm\.", "spatial.norm."),
    (r"backbone\.cls_token_out$", "temporal.cls_token"),
    (r"backbone\.temp_embd$", "temporal.pos_embed"),
    *_blocks(r"backbone\.layers_temporal", "temporal.blocks", _TADACONV_LAYERS),
    (r"backbone\.norm_out\.", "temporal.norm."),
]


def _stacked(weight: Tensor) -> Tensor:
    """The embedding, a convolution over time (D, C, T, H, W), as one of stacked frames (D, C * T, H, W)."""
    return weight.flatten(1, 2) if weight.dim() == 5 else weight


RESHAPE = {"spatial.patch_embed.proj.weight": _stacked}


def _vivit_b(sizes: ViViTSizes, device: torch.device) -> ViViT:
    return sizes.on(device)


_KINETICS = partial(_vivit_b, ViViTSizes(224, 400))
_EPIC = partial(_vivit_b, ViViTSizes(320, 97))

LAYOUTS = (
    Layout("ViViT-B for Kinetics-400, by the names of Eventful Transformers", _KINETICS, AUTHORS_RULES, RESHAPE),
    Layout("ViViT-B for EPIC-Kitchens-100, by the names of Eventful Transformers", _EPIC, AUTHORS_RULES, RESHAPE),
    Layout(
        "ViViT-B for Kinetics-400, by the names of TAdaConv",
        _KINETICS,
        [*_TADACONV_RULES, (r"head\.linear\.", "temporal.classifier.")],
        RESHAPE,
    ),
    Layout(
        "ViViT-B for EPIC-Kitchens-100, by the names of TAdaConv",
        _EPIC,
        [*_TADACONV_RULES, (r"head\.linear1\.", "temporal.classifier.")],
        RESHAPE,
        dropped=(r"head\.linear2\.",),
    ),
)
