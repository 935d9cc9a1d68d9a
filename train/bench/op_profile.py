"""Where a frame's time goes: seconds in each tensor operation, and in everything around them.

Every operation of a frame is timed on its own. A frame always runs the same operations in the same order, so that each
gets the least time that it took in several frames: robust against whatever else the machine does.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from train.timing import timed


@dataclass(frozen=True)
class OpTime:
    """Operations of one kind and shape.

    Attributes:
        name: Name of the operation.
        shapes: Shapes of the operation's tensors.
        calls: Number of calls in a frame.
        seconds: Seconds in a frame, all calls together.
    """

    name: str
    shapes: str
    calls: int
    seconds: float


@dataclass(frozen=True)
class FrameProfile:
    """Times of one model.

    Attributes:
        seconds: Seconds of the fastest frame, without any profiling.
        ops: Operations of a frame by kind and shape, slowest first.
    """

    seconds: float
    ops: list[OpTime]


@torch.inference_mode()
def profile_frames(model: Callable[[Tensor], Any], frames: Iterator[Tensor], repeats: int) -> FrameProfile:
    """Runs frames in turn with and without profiling.

    Args:
        model: Model past its first frame. Frames that run another number of operations than the first are left out.
        frames: Input frames, at least 2 * `repeats`.
        repeats: Number of profiled frames.
    """
    plain, records = [], []
    for _ in range(repeats):
        plain.append(timed(model, next(frames)))
        frame = next(frames)
        with _Recorder() as recorder:
            model(frame)
        records.append(recorder.ops)
    alike = [record for record in records if [op[:2] for op in record] == [op[:2] for op in records[0]]]
    totals: dict[tuple[str, str], list[float]] = defaultdict(list)
    for same in zip(*alike, strict=True):
        totals[same[0][:2]].append(min(op[2] for op in same))
    ops = [OpTime(*key, len(seconds), sum(seconds)) for key, seconds in totals.items()]
    return FrameProfile(min(plain), sorted(ops, key=lambda op: -op.seconds))


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.ops: list[tuple[str, str, float]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        started = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        seconds = time.perf_counter() - started
        shapes = [_shape(x) for arg in args for x in (arg if isinstance(arg, (list, tuple)) else [arg])]
        self.ops.append((func.overloadpacket.__name__, " ".join(filter(None, shapes)), seconds))
        return result


def _shape(value: Any) -> str:
    return "x".join(map(str, value.shape)) or "1" if isinstance(value, Tensor) else ""
