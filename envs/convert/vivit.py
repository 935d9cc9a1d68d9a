"""The factorised ViViT by the names of others: Eventful Transformers' (ICCV 2023), and TAdaConv's, who trained it.

Three kinds of files: TAdaConv's checkpoints (`.pyth`) of Kinetics-400 and of EPIC-Kitchens-100, whose second head (of
nouns) nobody needs here, and the files of Eventful Transformers, original or tuned. All tensors but one have the same
shape everywhere: the tubelet embedding is a convolution over time there, and over stacked frames here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from envs.vivit.model import PATCH, TUBELET, ViViT
from envs.vivit.weights import ViViTSizes
from eventful.errors import UserError

_EMBEDDING = "spatial.patch_embed.proj.weight"


@dataclass(frozen=True, eq=False)
class Names:
    """How the tensors of a ViViT are called somewhere else.

    Attributes:
        title: Whose names they are.
        parts: Beginnings of our names, and what stands there instead.
        layers: Layers of a block by our names, and by theirs.
        dropped: Beginnings of names of tensors that have no place in our model.
    """

    title: str
    parts: Mapping[str, str]
    layers: Mapping[str, str]
    dropped: tuple[str, ...] = field(default=())

    def of(self, name: str) -> str:
        """The name of one of our tensors."""
        ours = next(part for part in self.parts if name.startswith(part))
        rest = name.removeprefix(ours)
        if ours.endswith("blocks."):
            index, _, inner = rest.partition(".")
            layer, _, leaf = inner.rpartition(".")
            rest = f"{index}.{self.layers[layer]}.{leaf}"
        return self.parts[ours] + rest


AUTHORS = Names(
    "Eventful Transformers",
    {
        "spatial.patch_embed.proj.": "embedding.conv.",
        "spatial.cls_token": "spatial_model.class_token",
        "spatial.pos_embed": "spatial_model.backbone.position_encoding.encoding",
        "spatial.blocks.": "spatial_model.backbone.blocks.",
        "spatial.norm.": "spatial_model.layer_norm.",
        "temporal.cls_token": "temporal_model.class_token",
        "temporal.pos_embed": "temporal_model.backbone.position_encoding.encoding",
        "temporal.blocks.": "temporal_model.backbone.blocks.",
        "temporal.norm.": "temporal_model.layer_norm.",
        "temporal.classifier.": "classifier.",
    },
    {
        "norm1": "input_layer_norm",
        "attn.qkv": "qkv",
        "attn.proj": "projection",
        "norm2": "mlp_layer_norm",
        "mlp.fc1": "mlp_1",
        "mlp.fc2": "mlp_2",
    },
)

KINETICS = Names(
    "TAdaConv (Kinetics)",
    {
        "spatial.patch_embed.proj.": "backbone.stem.conv1.",
        "spatial.cls_token": "backbone.cls_token",
        "spatial.pos_embed": "backbone.pos_embd",
        "spatial.blocks.": "backbone.layers.",
        "spatial.norm.": "backbone.norm.",
        "temporal.cls_token": "backbone.cls_token_out",
        "temporal.pos_embed": "backbone.temp_embd",
        "temporal.blocks.": "backbone.layers_temporal.",
        "temporal.norm.": "backbone.norm_out.",
        "temporal.classifier.": "head.linear.",
    },
    {
        "norm1": "norm",
        "attn.qkv": "attn.to_qkv",
        "attn.proj": "attn.proj",
        "norm2": "norm_ffn",
        "mlp.fc1": "ffn.net.0",
        "mlp.fc2": "ffn.net.3",
    },
)

EPIC = dataclasses.replace(
    KINETICS,
    title="TAdaConv (EPIC-Kitchens)",
    parts={**KINETICS.parts, "temporal.classifier.": "head.linear1."},
    dropped=("head.linear2.",),
)


def tensors_in(checkpoint: Any, source: str) -> Mapping[str, Tensor]:
    """The tensors of a file that has been read: of the model alone where there is more, as in TAdaConv's checkpoints.

    Raises:
        UserError: If there is no table of tensors.
    """
    state = checkpoint.get("model_state", checkpoint) if isinstance(checkpoint, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"weights file {source} must hold a table of tensors by name, alone or as `model_state`")
    return state


def takes(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a ViViT by one of the known names."""
    return any(names.of(_EMBEDDING) in state for names in (AUTHORS, KINETICS))


def names_in(state: Mapping[str, Tensor]) -> Names:
    """Whose names the tensors have: told by the embedding, and by the classifier."""
    if AUTHORS.of(_EMBEDDING) in state:
        return AUTHORS
    return EPIC if any(name.startswith(("head.linear1.", "head.linear2.")) for name in state) else KINETICS


def to_vivit(state: Mapping[str, Tensor], source: str, sizes: ViViTSizes | None = None) -> ViViT:
    """The model that a table of tensors holds, in evaluation mode.

    Args:
        state: Tensors by the names of Eventful Transformers or of TAdaConv.
        source: Where they are from, for messages.
        sizes: Sizes of the model; by default those of ViViT-B, with the classes and the side of the views that the
            table has.

    Raises:
        UserError: Naming every tensor that is missing, has no place, or has another shape.
    """
    names = names_in(state)
    vivit = (sizes or _sizes(state, names, source)).empty()
    ours = {name: names.of(name) for name in vivit.state_dict()}
    shapes = {ours[name]: _their_shape(name, tensor) for name, tensor in vivit.state_dict().items()}
    _check(state, shapes, names, source)
    loaded = {
        name: state[theirs].float().reshape(tensor.shape)
        for (name, theirs), tensor in zip(ours.items(), vivit.state_dict().values(), strict=True)
    }
    vivit.load_state_dict(loaded, assign=True)
    return vivit


def from_vivit(vivit: ViViT, names: Names) -> dict[str, Tensor]:
    """The tensors of a model by the names of others."""
    state = vivit.state_dict()
    return {names.of(name): tensor.reshape(_their_shape(name, tensor)) for name, tensor in state.items()}


def _their_shape(name: str, tensor: Tensor) -> torch.Size:
    """Our embedding has (channels, 3 * time, 16, 16); theirs has time as a dimension of its own."""
    if name != _EMBEDDING:
        return tensor.shape
    return torch.Size([tensor.shape[0], tensor.shape[1] // TUBELET, TUBELET, *tensor.shape[2:]])


def _sizes(state: Mapping[str, Tensor], names: Names, source: str) -> ViViTSizes:
    """ViViT-B, for as many classes and as large views as the tensors are made for."""
    positions, classifier = (names.of(name) for name in ("spatial.pos_embed", "temporal.classifier.weight"))
    missing = [name for name in (positions, classifier) if name not in state]
    if missing:
        raise UserError(f"weights file {source} ({names.title}): {', '.join(missing)} missing")
    entries = state[positions].shape[1] if state[positions].dim() == 3 else 0
    side = math.isqrt(max(entries - 1, 0))
    if not side or side * side != entries - 1 or state[classifier].dim() != 2:
        raise UserError(
            f"weights file {source} ({names.title}): {positions} must be (1, 1 + side * side, channels) and "
            f"{classifier} (classes, channels), got {tuple(state[positions].shape)} and "
            f"{tuple(state[classifier].shape)}"
        )
    return ViViTSizes(side * PATCH, state[classifier].shape[0])


def _check(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], names: Names, source: str) -> None:
    surplus = [name for name in state if name not in shapes and not name.startswith(names.dropped or ("\0",))]
    wrong = [name for name in shapes if name in state and state[name].shape != shapes[name]]
    problems: dict[str, Iterable[str]] = {
        "missing": [name for name in shapes if name not in state],
        "not of a ViViT": surplus,
        "of another shape": [f"{name} {tuple(state[name].shape)} for {tuple(shapes[name])}" for name in wrong],
    }
    listed = "; ".join(f"{what}: {', '.join(sorted(found))}" for what, found in problems.items() if found)
    if listed:
        raise UserError(f"weights file {source} ({names.title}) does not fit: {listed}")
