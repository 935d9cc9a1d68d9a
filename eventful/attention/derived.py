"""Values computed from weights, kept until the weights change: resized tables of positions, rotary embeddings."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")


class Derived(Generic[Value]):
    """Keeps the last value of a function of tensors. Copies and unpickled ones begin empty."""

    def __init__(self) -> None:
        self._sources: list[weakref.ref[Tensor]] = []
        self._about: tuple[Hashable, ...] = ()
        self._value: Value | None = None

    def __reduce__(self) -> tuple[type[Derived[Value]], tuple[()]]:
        # What was computed from one model's weights must not go along into a copy, which has its own.
        return Derived, ()

    def get(self, sources: Sequence[Tensor], make: Callable[[], Value], *about: Hashable) -> Value:
        """What `make` returns, computed anew only when it could differ from the last time.

        Args:
            sources: All tensors that it depends on.
            make: Function that computes it.
            about: Everything else that it depends on.
        """
        if not _traceable(sources):
            return make()
        about = (*about, torch.is_inference_mode_enabled(), *((x.device, x.dtype, x._version) for x in sources))
        same = len(self._sources) == len(sources) and all(
            known() is source for known, source in zip(self._sources, sources, strict=True)
        )
        if self._value is None or not same or about != self._about:
            self._value = make()
            self._sources, self._about = [weakref.ref(source) for source in sources], about
        return self._value


def _traceable(sources: Sequence[Tensor]) -> bool:
    """Whether changes of the tensors can be noticed, and no gradients flow to them."""
    if torch.compiler.is_compiling() or any(source.is_inference() for source in sources):
        return False
    return not (torch.is_grad_enabled() and any(source.requires_grad for source in sources))
