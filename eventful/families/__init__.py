"""Model families that can be made eventful. `adapt` finds the one that a model belongs to."""

from __future__ import annotations

from typing import Any

from torch import nn

from eventful.errors import UnsupportedModel
from eventful.families.backbone import Backbone
from eventful.families.eva import EvaBackbone
from eventful.families.naflex import NaFlexBackbone
from eventful.families.sam import SAMBackbone
from eventful.families.towers.backbone import TowerBackbone
from eventful.families.vit import ViTBackbone

_FAMILIES: tuple[Any, ...] = (ViTBackbone, EvaBackbone, SAMBackbone, NaFlexBackbone, TowerBackbone)


def adapt(vit: nn.Module) -> Backbone:
    """The model as a `Backbone`.

    Raises:
        UnsupportedModel: Naming the part of the model that is in the way.
    """
    for family in _FAMILIES:
        if family.takes(vit):
            return family(vit)
    names = ", ".join(family.title for family in _FAMILIES)
    raise UnsupportedModel(f"{type(vit).__module__}.{type(vit).__name__} is none of the supported families: {names}")
