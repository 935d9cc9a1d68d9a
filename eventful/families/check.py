"""Checks that families share: a model is taken apart only if its forward is the one that its parts are known from."""

from __future__ import annotations

from torch import nn

from eventful.errors import UnsupportedModel


def check_forward(vit: nn.Module, base: type[nn.Module]) -> None:
    """Refuses subclasses that change how features are computed.

    Raises:
        UnsupportedModel: Naming the method.
    """
    for name in ("forward", "forward_features"):
        if getattr(type(vit), name) is not getattr(base, name):
            raise UnsupportedModel(f"{type(vit).__name__}.{name} is not that of timm's {base.__name__}")


def check_patch_drop(patch_drop: nn.Module | None) -> None:
    """Refuses models that drop patch tokens.

    Raises:
        UnsupportedModel: Naming the submodule.
    """
    if patch_drop is not None and not isinstance(patch_drop, nn.Identity):
        raise UnsupportedModel("patch_drop: a model that drops patch tokens has no fixed set of tokens")


def check_ungated(attn: nn.Module, where: str) -> None:
    """Refuses attention whose outputs are gated by its inputs.

    Raises:
        UnsupportedModel: Naming the submodule.
    """
    if getattr(attn, "gate", None) is not None:
        raise UnsupportedModel(f"{where}.attn.gate: gated attention outputs are not supported")
