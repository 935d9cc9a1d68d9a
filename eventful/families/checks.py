"""Checks that families share: a model is taken apart only if its forward is the one that its parts are known from."""

from __future__ import annotations

from typing import Any

from torch import nn

from eventful.errors import StreamError, UnsupportedModel


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


def patch_grid(patch_embed: Any, size: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of patches of a frame of (height, width).

    Raises:
        StreamError: If the model does not take frames of this size.
    """
    fixed = patch_embed.img_size if getattr(patch_embed, "strict_img_size", False) else None
    side = patch_embed.patch_size
    if fixed is not None and fixed != size:
        raise StreamError(f"the model takes frames of {fixed[0]}x{fixed[1]}, this one is {size[0]}x{size[1]}")
    any_size = fixed is not None or getattr(patch_embed, "dynamic_img_pad", False)
    if not any_size and (size[0] % side[0] or size[1] % side[1]):
        raise StreamError(f"frames must be multiples of the patch size {side[0]}x{side[1]}, got {size[0]}x{size[1]}")
    return patch_embed.dynamic_feat_size(size)
