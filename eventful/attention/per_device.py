"""Fixed tensors (index tables) that follow the model from device to device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class PerDevice:
    """A tensor that is made once, and copied once to each device where it is asked for.

    Args:
        make: Makes the tensor on the CPU. It is run outside of inference mode, so that the result can also be used
            where gradients flow.
    """

    def __init__(self, make: Callable[[], Tensor]) -> None:
        with torch.inference_mode(False):
            self._on = {torch.device("cpu"): make().cpu()}

    def on(self, device: torch.device) -> Tensor:
        """The tensor on a device."""
        if device not in self._on:
            with torch.inference_mode(False):
                self._on[device] = self._on[torch.device("cpu")].to(device)
        return self._on[device]
