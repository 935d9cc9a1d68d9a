"""Models of timm and transformers by name, with weights from a file or from the hub, at any input size.

Shape suffixes: P prefix tokens (class, registers), N tokens, D channels.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors.torch
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from envs.hub.load import PREFIX, load_tower
from eventful.errors import UserError
from eventful.tasks import nearest

_WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "teacher",
    "target_encoder",
    "encoder",
    "student",
)
"""Keys under which training scripts keep the weights in a checkpoint; averaged ones first, as timm does."""

_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "vit.", "encoder.", "visual.", "trunk.")
"""What wrappers put before the names: parallel training, `torch.compile`, Lightning, segmenters, `eventful.wrap`,
masked autoencoders, CLIP."""

_NOT_FOR_INFERENCE = ("mask_token",)
"""What official files hold for training alone, and timm's models do not have."""


def load_backbone(
    name: str,
    weights: str | Path | None = None,
    image_size: Sequence[int] | None = None,
    num_classes: int | None = None,
) -> nn.Module:
    """Builds a model and fills it.

    Args:
        name: Name of the model in timm, such as `vit_small_patch14_dinov2`, or `hf:NAME` for one of transformers, of
            which `weights` is a folder (`envs.hub.load`).
        weights: Weights file, .safetensors, .pth, .pt or .bin. Half precision becomes float, position embeddings are
            resampled to the model's grid, all names must match. Downloaded by name if None.
        image_size: Height and width of the input in pixels; the model's own if None.
        num_classes: Size of the classifier, 0 for none; that of the weights file if None, or the model's own.

    Raises:
        UserError: If there is no such model, it has no fixed input size to set, or the weights do not fit or cannot
            be had.
        OSError: If the weights file is missing.
    """
    if name.startswith(PREFIX):
        if num_classes is not None:
            raise UserError(f"num_classes cannot be set for {name}: the folder says what the model is")
        size = None if image_size is None else _size(image_size)
        return load_tower(name.removeprefix(PREFIX), weights, size)
    if not timm.is_model(name):
        raise UserError(f"timm has no model {name!r}{nearest(name, timm.list_models() + timm.list_pretrained())}")
    if weights is not None and not Path(weights).is_file():
        raise FileNotFoundError(f"weights file {weights} does not exist")
    options: dict[str, Any] = {} if image_size is None else {"img_size": tuple(_size(image_size))}
    state = None if weights is None else read_weights(weights)
    if num_classes is None and state is not None:
        num_classes = _classes_of(name, state)
    if num_classes is not None:
        options["num_classes"] = num_classes
    model = _create(name, options, pretrained=weights is None)
    if image_size is not None:
        _check_patches(model, image_size)
    if state is not None:
        fill(model, state, str(weights))
    return model


def _classes_of(name: str, state: Mapping[str, Tensor]) -> int | None:
    """The size of the classifier in a file of weights: one that was tuned has another than the model's own."""
    config = timm.get_pretrained_cfg(name)
    classifier = None if config is None else config.classifier
    weight = state.get(f"{classifier}.weight") if isinstance(classifier, str) else None
    return None if weight is None else weight.shape[0]


def load_torch_file(path: str | Path) -> Any:
    """What lies in a file that `torch.save` wrote, if it is nothing but tensors and plain data.

    Raises:
        UnpicklingError: If it holds anything else.
        Exception: Of any kind, if it is damaged.
    """
    # Training scripts put their arguments beside the weights; a namespace does nothing when it is read.
    with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
        # Of a newer protocol, it is read or refused all the same.
        warnings.filterwarnings("ignore", "Detected pickle protocol")
        return torch.load(path, map_location="cpu", weights_only=True)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file, in float32 where they are floating point.

    Raises:
        UserError: If the file is damaged or holds anything but tensors.
        OSError: If it cannot be read.
    """
    try:
        if Path(path).suffix == ".safetensors":
            state: Any = safetensors.torch.load_file(path)
        else:
            state = load_torch_file(path)
    except UnpicklingError as error:
        # PyTorch's own message advises to switch the safe loading off.
        raise UserError(f"weights file {path} is no PyTorch file that holds nothing but tensors") from error
    except OSError:
        raise
    except Exception as error:
        # Whatever a reader of pickles makes of arbitrary bytes.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"weights file {path} cannot be read: {reason}") from error
    while isinstance(state, Mapping) and (inner := [k for k in _WRAPPERS if isinstance(state.get(k), Mapping)]):
        others = [k for k, value in state.items() if k != inner[0] and _holds_tensors(value)]
        if others:
            warnings.warn(
                f"weights file {path}: the weights under {inner[0]!r} are read; not read: those under {_first(others)}",
                stacklevel=3,
            )
        state = state[inner[0]]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        known = f" (it has {_first(map(str, state))})" if isinstance(state, Mapping) else ""
        raise UserError(
            f"weights file {path} must hold a table of tensors by name, or one under {', '.join(_WRAPPERS)}{known}"
        )
    found = _without_prefix(state, path)
    return {name: value.float() if value.is_floating_point() else value for name, value in found.items()}


def _holds_tensors(value: Any) -> bool:
    """Whether something is a table of tensors alone, as weights are, and states of optimisers are not."""
    return isinstance(value, Mapping) and bool(value) and all(isinstance(entry, Tensor) for entry in value.values())


def _without_prefix(state: Mapping[str, Tensor], path: str | Path) -> Mapping[str, Tensor]:
    """The tensors of the model within a wrapper, by their own names; a warning names others, which are left out."""
    for prefix in _PREFIXES:
        inner = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if inner:
            others = [name for name in state if not name.startswith(prefix)]
            if others:
                warnings.warn(
                    f"weights file {path}: the model is under {prefix!r}; not read: {_first(others)}", stacklevel=4
                )
            return _without_prefix(inner, path)
    return state


def fill(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Loads weights strictly, after resampling the position embedding to the model's grid.

    Raises:
        UserError: If names or shapes differ; the message lists the first of them.
    """
    own = model.state_dict()
    state = {name: value for name, value in state.items() if name in own or name not in _NOT_FOR_INFERENCE}
    if "pos_embed" in state and isinstance(getattr(model, "pos_embed", None), Tensor):
        state["pos_embed"] = _resampled(model, state["pos_embed"], source)
    both = own.keys() & state.keys()
    wrong = [name for name in both if own[name].shape != state[name].shape]
    whole = [name for name in both if own[name].is_floating_point() and not state[name].is_floating_point()]
    problems = {
        "missing": own.keys() - state.keys(),
        "not in the model": state.keys() - own.keys(),
        "of another shape": [f"{n} {tuple(state[n].shape)} for {tuple(own[n].shape)}" for n in wrong],
        "whole numbers, as of a quantised model": whole,
    }
    listed = "; ".join(f"{what}: {_first(names)}" for what, names in problems.items() if names)
    if listed:
        raise UserError(f"weights file {source} does not fit {type(model).__name__}: {listed}")
    model.load_state_dict(state)


def _create(name: str, options: dict[str, Any], pretrained: bool) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        raise UserError(f"model {name} takes frames of any size, so image_size cannot be set for it") from error
    except AssertionError as error:
        # timm checks by assert that the patch size divides the input.
        raise UserError(f"model {name} cannot have input size {options.get('img_size')}: {error}") from error
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        reason = str(error).splitlines()[0]
        raise UserError(f"no pretrained weights for {name} ({reason}); give weights=FILE") from error


def _resampled(model: nn.Module, pos_embed: Tensor, source: str) -> Tensor:
    """Position embeddings (1, P + N, D) for the model's grid."""
    own: Any = model.pos_embed
    if pos_embed.shape == own.shape:
        return pos_embed
    vit: Any = model
    prefix = 0 if getattr(vit, "no_embed_class", False) else vit.num_prefix_tokens
    patches = pos_embed.shape[1] - prefix
    side = math.isqrt(max(patches, 0))
    if pos_embed.dim() != 3 or pos_embed.shape[2] != own.shape[2] or side * side != patches or not side:
        raise UserError(
            f"weights file {source}: pos_embed {tuple(pos_embed.shape)} cannot be resampled to {tuple(own.shape)}: "
            f"the same width and a square grid after {prefix} prefix tokens are needed"
        )
    return resample_abs_pos_embed(
        pos_embed, new_size=list(vit.patch_embed.grid_size), old_size=[side, side], num_prefix_tokens=prefix
    )


def _check_patches(model: nn.Module, image_size: Sequence[int]) -> None:
    """timm would leave out the pixels at the border that do not fill a patch."""
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if patch is not None and any(side % p for side, p in zip(image_size, patch, strict=True)):
        fits = [max(round(side / p), 1) * p for side, p in zip(image_size, patch, strict=True)]
        raise UserError(
            f"image_size {list(image_size)} is no multiple of the patches of {patch[0]}x{patch[1]} pixels; {fits} is"
        )


def _size(image_size: Sequence[int]) -> Sequence[int]:
    if len(image_size) != 2 or min(image_size) < 1:
        raise UserError(f"image_size must be [height, width], got {list(image_size)}")
    return image_size


def _first(names: Iterable[str], count: int = 3) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - count} more" if len(listed) > count else ""
    return ", ".join(listed[:count]) + more
