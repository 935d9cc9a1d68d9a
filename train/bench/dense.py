"""The dense model as fast as this machine runs it: several ways, timed on the same frames, the fastest kept.

A speed-up over a slow dense model is worth nothing. Which way wins is a matter of processor and type of data: in
float32 oneDNN where torch's BLAS does not know the processor, in bfloat16 often the compiler.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eventful.cli import one_line
from eventful.linear.onednn import by_onednn
from train.bench.case import Setting
from train.timing import Quartiles, quartiles, timed

WAYS: dict[str, Callable[[nn.Module], Callable[[Tensor], Any]]] = {
    "eager": lambda vit: vit,
    "onednn": by_onednn,
    "compiled": torch.compile,
}
"""How a dense model can be run: as timm has it (fused attention), with linear layers by oneDNN, or compiled."""


@dataclass(frozen=True)
class DenseWay:
    """One way of running the dense model.

    Attributes:
        size: Side of the frames in pixels.
        way: Which of `WAYS`.
        ms: Milliseconds per frame; None if it does not run here.
        fastest: Whether it is the dense model that modes are compared with.
        missing: Why it does not run, or an empty string.
    """

    size: int
    way: str
    ms: Quartiles | None = None
    fastest: bool = False
    missing: str = ""


@torch.inference_mode()
def race(
    setting: Setting, vit: nn.Module, ways: Sequence[str], frames: Iterator[Tensor], repeats: int
) -> tuple[Callable[[Tensor], Any], list[DenseWay]]:
    """Times the ways in turn on the same frames.

    Args:
        setting: Size, device and type.
        vit: The dense model.
        ways: Some of `WAYS`; those that do not run on this machine are left out, and say why.
        frames: Input frames.
        repeats: Number of timed frames.

    Returns:
        The fastest way as a function of a frame, and what was found of each.

    Raises:
        RuntimeError: If none of them runs.
    """
    calls, missing, first = dict[str, Callable[[Tensor], Any]](), dict[str, str](), next(frames)
    for way in ways:
        calls[way] = WAYS[way](vit)
        try:
            calls[way](first)
        except Exception as error:
            # Compilers raise whatever they like where they are missing.
            missing[way] = one_line(error)
            del calls[way]
    if not calls:
        raise RuntimeError(f"the dense model does not run in any way: {missing}")
    seconds: dict[str, list[float]] = {way: [] for way in calls}
    for frame in itertools.islice(frames, repeats):
        for way, call in calls.items():
            seconds[way].append(timed(call, frame))
    fastest = min(calls, key=lambda way: np.median(seconds[way]))
    found = [
        DenseWay(setting.size, way, quartiles(1e3 * np.array(seconds[way])), way == fastest)
        if way in calls
        else DenseWay(setting.size, way, missing=missing[way])
        for way in ways
    ]
    return calls[fastest], found
