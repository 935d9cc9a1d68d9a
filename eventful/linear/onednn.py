"""Linear layers on packed rows by oneDNN, on CPUs.

In float32 `torch.nn.functional.linear` calls the BLAS library that torch was built with. Where that library does not
know the processor (MKL on AMD), oneDNN is about twice as fast (docs/lab-notes.md), and it comes with torch, too. The
models' own modules run as they are: only the product inside of their linear layers is computed by the other library.

Shape suffixes: P packed rows, D channels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import flop_registry, register_flop_formula

from eventful.families.block import Block


def available() -> bool:
    """Whether this build of torch has the operation."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_block(block: Block) -> Block:
    """The block with linear layers by oneDNN where its token-wise parts run on packed float32 rows on a CPU."""
    return dataclasses.replace(
        block, project=_OnPacked(block.project), proj=_OnPacked(block.proj), mlp=_OnPacked(block.mlp)
    )


class OneDnnLinear(TorchFunctionMode):
    """Within this context `F.linear` on float32 CPU tensors goes to oneDNN. Not differentiable."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.linear and not kwargs and _suits(*args):
            x, weight, bias = args if len(args) == 3 else (*args, None)
            return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return func(*args, **(kwargs or {}))


class _OnPacked:
    """A token-wise function of rows (P, D)."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self._function = function

    def __call__(self, x: Tensor) -> Any:
        if x.dim() != 2 or x.dtype != torch.float32 or x.device.type != "cpu" or torch.is_grad_enabled():
            return self._function(x)
        with OneDnnLinear():
            return self._function(x)


def _suits(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    tensors = (x, weight) if bias is None else (x, weight, bias)
    # Quantised and other special weights bring a type of their own.
    plain = all(type(t) in (Tensor, torch.nn.Parameter) and t.dtype == torch.float32 for t in tensors)
    return plain and x.device.type == "cpu" and x.numel() > 0 and weight.is_contiguous()


def _count_flops(x_shape: Any, weight_shape: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Two operations per multiply-accumulate, for torch's own counters."""
    return 2 * math.prod(x_shape) * weight_shape[0]


if available() and torch.ops.mkldnn._linear_pointwise not in flop_registry:
    register_flop_formula(torch.ops.mkldnn._linear_pointwise)(_count_flops)
