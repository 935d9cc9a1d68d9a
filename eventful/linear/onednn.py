"""Linear layers by oneDNN, on CPUs.

In float32 `torch.nn.functional.linear` calls the BLAS library that torch was built with. Where that library does not
know the processor's AVX-512 (MKL on AMD), oneDNN is about twice as fast (docs/lab-notes.md), and it comes with torch,
too; without AVX-512 it is the faster one for few rows alone (`most_rows`). The models' own modules run as they are:
only the product inside of their linear layers is computed by the other library. Dense models that eventful ones are
compared with are given the same (`by_onednn`).

oneDNN makes a kernel for every number of rows and keeps a thousand of them, which take hundreds of megabytes. Packed
rows are therefore filled up with zeros to one of few numbers (`rounded`).
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
    """The block with its linear layers by oneDNN where they run on float32 tokens on a CPU, without gradients."""
    return dataclasses.replace(
        block,
        project=by_onednn(block.project, packed=True),
        proj=by_onednn(block.proj, packed=True),
        mlp=by_onednn(block.mlp, packed=True),
    )


def by_onednn(call: Callable[[Tensor], Any], packed: bool = False) -> Callable[[Tensor], Any]:
    """A function of tokens or frames, such as a model, with its linear layers by oneDNN where that is possible.

    Elsewhere (another device or type, gradients, autocast, a torch without oneDNN) it runs as it is.

    Args:
        call: The function.
        packed: Whether it takes packed rows (P, D), whose number changes from call to call.
    """
    return _ByOneDnn(call, packed) if available() else call


def most_rows() -> float:
    """The largest number of rows that are multiplied by oneDNN.

    A rule rather than a race at first use: which library multiplies is part of the numbers, to the last bit.
    """
    return math.inf if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else 128


def rounded(rows: int) -> int:
    """The next number of rows of which there are 16 between a power of two and the next, so at most 1/16 more."""
    step = 1 << max(rows.bit_length() - 5, 0)
    return -(-rows // step) * step


class OneDnnLinear(TorchFunctionMode):
    """Within this context `F.linear` on float32 CPU tensors goes to oneDNN. Not differentiable.

    Args:
        packed: Whether rows (P, D) are filled up to a `rounded` number; what comes out is the same, without them.
    """

    def __init__(self, packed: bool = False) -> None:
        super().__init__()
        self._packed, self._most_rows = packed, most_rows()

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.linear and not kwargs and _suits(*args):
            x, weight, bias = args if len(args) == 3 else (*args, None)
            rows = x.shape[0]
            if x.numel() > self._most_rows * x.shape[-1]:
                return func(*args)
            missing = rounded(rows) - rows if self._packed and x.dim() == 2 else 0
            x = F.pad(x, (0, 0, 0, missing)) if missing else x
            out = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
            return out[:rows] if missing else out
        return func(*args, **(kwargs or {}))


class _ByOneDnn:
    def __init__(self, call: Callable[[Tensor], Any], packed: bool) -> None:
        self._call, self._packed = call, packed

    def __call__(self, x: Tensor) -> Any:
        if x.dtype != torch.float32 or x.device.type != "cpu" or torch.is_grad_enabled():
            return self._call(x)
        # Autocast multiplies in another type than that of the tokens, which oneDNN would not.
        if torch.is_autocast_enabled("cpu"):
            return self._call(x)
        with OneDnnLinear(self._packed):
            return self._call(x)


def _suits(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    tensors = (x, weight) if bias is None else (x, weight, bias)
    # Quantised and other special weights bring a type of their own.
    plain = all(type(t) in (Tensor, torch.nn.Parameter) and t.dtype == torch.float32 for t in tensors)
    # What oneDNN is given it reads as dense memory.
    dense = weight.is_contiguous() and (bias is None or (bias.dim() == 1 and bias.is_contiguous()))
    return plain and dense and x.device.type == "cpu" and x.numel() > 0


def _count_flops(x_shape: Any, weight_shape: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Two operations per multiply-accumulate, for torch's own counters."""
    return 2 * math.prod(x_shape) * weight_shape[0]


if available() and torch.ops.mkldnn._linear_pointwise not in flop_registry:
    register_flop_formula(torch.ops.mkldnn._linear_pointwise)(_count_flops)
