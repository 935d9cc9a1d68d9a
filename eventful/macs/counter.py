"""Multiply-accumulates of a piece of code, counted by running it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def count_macs(function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    """Runs a function without gradients and counts the products, convolutions and attentions in it.

    Unlike `torch.utils.flop_counter.FlopCounterMode` this puts no hooks on modules, which fail on modules that are
    handed their own parameters (attention pooling).

    Returns:
        What the function returns, and the number of multiply-accumulates.
    """
    with torch.inference_mode(False), torch.no_grad(), _Counter() as counter:
        result = function(*args)
    return result, counter.flops / 2


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet not in flop_registry:
            # Inference tensors arrive here with composite operations still in one piece.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=result)
        return result
