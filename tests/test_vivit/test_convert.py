"""Weights by the names of Eventful Transformers and of TAdaConv: every tensor finds its place, or is named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from envs.convert.vivit import AUTHORS, EPIC, KINETICS, Names, from_vivit, names_in, takes, tensors_in, to_vivit
from envs.vivit import ViViT
from envs.vivit.weights import ViViTSizes
from eventful.errors import UserError

SMALL = ViViTSizes(64, 97, frames=8, dim=48, heads=3, depth=3, temporal_depth=2)
NOUNS = {"head.linear2.weight": torch.zeros(300, 48), "head.linear2.bias": torch.zeros(300)}

PUBLISHED = {
    AUTHORS: {
        "embedding.conv.weight": (768, 3, 2, 16, 16),
        "embedding.conv.bias": (768,),
        "spatial_model.class_token": (1, 1, 768),
        "spatial_model.backbone.position_encoding.encoding": (1, 401, 768),
        "spatial_model.backbone.blocks.11.input_layer_norm.weight": (768,),
        "spatial_model.backbone.blocks.0.qkv.weight": (2304, 768),
        "spatial_model.backbone.blocks.0.projection.bias": (768,),
        "spatial_model.backbone.blocks.5.mlp_layer_norm.bias": (768,),
        "spatial_model.backbone.blocks.5.mlp_1.weight": (3072, 768),
        "spatial_model.backbone.blocks.5.mlp_2.weight": (768, 3072),
        "spatial_model.layer_norm.weight": (768,),
        "temporal_model.class_token": (1, 1, 768),
        "temporal_model.backbone.position_encoding.encoding": (1, 17, 768),
        "temporal_model.backbone.blocks.3.qkv.bias": (2304,),
        "temporal_model.layer_norm.bias": (768,),
        "classifier.weight": (97, 768),
    },
    EPIC: {
        "backbone.stem.conv1.weight": (768, 3, 2, 16, 16),
        "backbone.cls_token": (1, 1, 768),
        "backbone.pos_embd": (1, 401, 768),
        "backbone.layers.11.norm.weight": (768,),
        "backbone.layers.0.attn.to_qkv.weight": (2304, 768),
        "backbone.layers.0.attn.proj.bias": (768,),
        "backbone.layers.5.norm_ffn.bias": (768,),
        "backbone.layers.5.ffn.net.0.weight": (3072, 768),
        "backbone.layers.5.ffn.net.3.weight": (768, 3072),
        "backbone.norm.weight": (768,),
        "backbone.cls_token_out": (1, 1, 768),
        "backbone.temp_embd": (1, 17, 768),
        "backbone.layers_temporal.3.attn.to_qkv.bias": (2304,),
        "backbone.norm_out.bias": (768,),
        "head.linear1.weight": (97, 768),
    },
    KINETICS: {"head.linear.weight": (97, 768), "backbone.norm_out.weight": (768,)},
}
"""Some of the tensors of each file, of every kind, with the shapes that they have there."""


@pytest.mark.parametrize("names", PUBLISHED, ids=lambda names: names.title)
def test_names_and_shapes_of_the_published_files(names: Names) -> None:
    state = from_vivit(ViViTSizes(320, 97).empty(), names)
    assert len(state) == 204 and sum(tensor.numel() for tensor in state.values()) == 114_986_593
    assert {name: tuple(state[name].shape) for name in PUBLISHED[names]} == PUBLISHED[names]


@pytest.mark.parametrize("names", [AUTHORS, EPIC, KINETICS], ids=lambda names: names.title)
def test_a_model_comes_back_as_it_was(small_vivit: ViViT, names: Names) -> None:
    state = from_vivit(small_vivit, names) | (NOUNS if names is EPIC else {})
    assert takes(state) and names_in(state) is names
    back = to_vivit(state, "file", SMALL)
    assert not back.training
    for name, tensor in small_vivit.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    assert not takes({"blocks.0.norm1.weight": torch.zeros(1)})


@pytest.mark.parametrize(("names", "size", "classes"), [(AUTHORS, 320, 97), (KINETICS, 224, 400)])
def test_views_and_classes_are_told_by_the_tensors(names: Names, size: int, classes: int) -> None:
    vivit = to_vivit(_flat(ViViTSizes(size, classes), names), "file")
    assert (vivit.size, vivit.temporal.classifier.out_features, vivit.frames) == (size, classes, 32)


def _flat(sizes: ViViTSizes, names: Names) -> dict[str, Tensor]:
    """Tensors of these shapes that take no memory."""
    return {name: torch.zeros(1).expand(tensor.shape) for name, tensor in from_vivit(sizes.empty(), names).items()}


def test_checkpoints_hold_more_than_the_model(small_vivit: ViViT) -> None:
    state = from_vivit(small_vivit, KINETICS)
    checkpoint = {"epoch": 29, "model_state": state, "optimizer_state": {"state": {}}, "cfg": "{}"}
    assert tensors_in(checkpoint, "a.pyth") is state and tensors_in(state, "a.pth") is state
    for other in ({"epoch": 29, "cfg": "{}"}, {"model_state": None}, [state]):
        with pytest.raises(UserError, match=r"a\.pyth must hold a table of tensors"):
            tensors_in(other, "a.pyth")


def test_every_tensor_that_does_not_fit_is_named(small_vivit: ViViT) -> None:
    state = from_vivit(small_vivit, EPIC) | NOUNS
    for block in range(3):
        del state[f"backbone.layers.{block}.norm.bias"]
    state["backbone.layers.3.norm.bias"] = torch.zeros(48)
    state["head.linear3.weight"] = torch.zeros(2)
    state["backbone.norm.weight"] = torch.zeros(47)
    with pytest.raises(UserError) as error:
        to_vivit(state, "a.pyth", SMALL)
    assert str(error.value) == (
        "weights file a.pyth (TAdaConv (EPIC-Kitchens)) does not fit: missing: backbone.layers.0.norm.bias, "
        "backbone.layers.1.norm.bias, backbone.layers.2.norm.bias; not of a ViViT: backbone.layers.3.norm.bias, "
        "head.linear3.weight; of another shape: backbone.norm.weight (47,) for (48,)"
    )


def test_files_whose_sizes_cannot_be_told_are_refused() -> None:
    state = _flat(ViViTSizes(224, 400), AUTHORS)
    positions = "spatial_model.backbone.position_encoding.encoding"
    with pytest.raises(UserError, match=r"authors\.pth \(Eventful Transformers\): classifier.weight missing"):
        to_vivit({name: tensor for name, tensor in state.items() if name != "classifier.weight"}, "authors.pth")
    with pytest.raises(UserError, match=r"must be \(1, 1 \+ side \* side, channels\).*got \(1, 196, 768\)"):
        to_vivit(state | {positions: torch.zeros(1, 196, 768)}, "authors.pth")
    # A smaller model is not a ViViT-B, whatever its tensors agree on among themselves.
    with pytest.raises(UserError, match=r"missing: spatial_model\.backbone\.blocks\.11\."):
        to_vivit({name: tensor for name, tensor in state.items() if "blocks.11." not in name}, "authors.pth")
