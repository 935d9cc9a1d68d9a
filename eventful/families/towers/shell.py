"""A model with some of its parts replaced, beside the original: what comes after the layers is left to its own code."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn


def with_parts(model: nn.Module, parts: Mapping[str, nn.Module]) -> Any:
    """A model that shares everything with the given one but the named parts; neither it nor its weights are copied.

    Hooks on what contains a replaced part are not called: they would see stand-ins.

    Args:
        model: The original, left as it is.
        parts: New submodules by their names in the model.
    """
    shell = _unhooked(model)
    below: dict[str, dict[str, nn.Module]] = {}
    for name, module in parts.items():
        first, _, rest = name.partition(".")
        if rest:
            below.setdefault(first, {})[rest] = module
        else:
            shell._modules[first] = module
    for first, inner in below.items():
        shell._modules[first] = with_parts(model.get_submodule(first), inner)
    return shell


def answering(module: nn.Module, answer: Tensor) -> nn.Module:
    """A stand-in with the attributes of a module, which returns the same whatever it is called with."""
    stand_in = _unhooked(module)
    call: Callable[..., Tensor] = lambda *_, **__: answer  # noqa: E731 (not bound to the instance)
    stand_in.__dict__["forward"] = call
    return stand_in


def _unhooked(module: nn.Module) -> nn.Module:
    shell = copy.copy(module)
    shell.__dict__["_modules"] = dict(module._modules)
    shell.__dict__["_forward_hooks"] = OrderedDict()
    shell.__dict__["_forward_pre_hooks"] = OrderedDict()
    return shell
