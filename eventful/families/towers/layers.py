"""Layers of a tower, checked and taken apart by their layout."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

from eventful.attention.buffers import QKV
from eventful.attention.full import FullAttention
from eventful.attention.rotary import RopeTable
from eventful.errors import UnsupportedModel
from eventful.families.block import Block, TokenWise
from eventful.families.towers.layouts import LayerLayout, TowerLayout, from_transformers
from eventful.macs.ledger import linear_macs


def check_layers(vit: nn.Module, tower: Any, layers_name: str, layout: TowerLayout) -> None:
    """Refuses what is not computed as the layout says.

    Raises:
        UnsupportedModel: Naming the part.
    """
    for name in ("output_attentions", "output_hidden_states"):
        if getattr(vit.config, name, False) or getattr(tower.config, name, False):
            raise UnsupportedModel(f"config.{name} is set: switch it off, and ask for hidden states frame by frame")
    layers: Any = vit.get_submodule(layers_name)
    opened = {"the model": vit, "the tower": tower}
    for i, layer in enumerate(layers):
        where = f"{layers_name}.{i}"
        opened[where] = layer
        if type(layer).__name__ != layout.layer or not from_transformers(layer):
            raise UnsupportedModel(f"{where}: {type(layer).__name__} is not transformers' {layout.layer}")
        attention = layer.get_submodule(layout.within.attention)
        if type(attention).__name__ != layout.attention or not from_transformers(attention):
            found = f"{where}.{layout.within.attention}: {type(attention).__name__}"
            raise UnsupportedModel(f"{found} is not transformers' {layout.attention}")
    for where, module in opened.items():
        if "forward" in vars(module):
            raise UnsupportedModel(f"{where}: its forward was replaced, as device_map= does; move the model by .to()")


def adapt_layer(layer: nn.Module, names: LayerLayout, config: Any, rope: RopeTable | None) -> Block:
    """A layer taken apart.

    Args:
        layer: The layer, whose parts are looked up when they are used.
        names: What they are called.
        config: The tower's configuration.
        rope: Turns queries and keys; None for none.
    """
    heads = config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    of_qkv = [attrgetter(name) for name in names.qkv]

    def project(tokens: Tensor) -> QKV:
        q, k, v = (linear(layer)(tokens).unflatten(-1, (heads, dim)) for linear in of_qkv)
        return q, k, v

    def macs(*inside: str) -> float:
        return linear_macs(*(layer.get_submodule(name) for name in inside))

    return Block(
        module=layer,
        norm1=_one_by_one(layer, names.norms[:1]),
        project=project,
        turn=None if rope is None else rope.turn,
        attention=FullAttention(heads, dim, getattr(layer.get_submodule(names.attention), names.scale)),
        proj=_one_by_one(layer, names.proj),
        norm2=_one_by_one(layer, names.norms[1:]),
        mlp=_one_by_one(layer, names.mlp),
        qkv_macs=macs(*names.qkv),
        proj_macs=macs(*names.proj),
        mlp_macs=macs(*names.mlp),
    )


def _one_by_one(layer: nn.Module, names: Sequence[str]) -> TokenWise:
    """Submodules of a layer, one after the other, looked up at each call."""
    find = [attrgetter(name) for name in names]

    def call(x: Tensor) -> Tensor:
        for part in find:
            x = part(layer)(x)
        return x

    return call
