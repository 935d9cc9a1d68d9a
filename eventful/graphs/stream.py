"""Streams whose frames are replayed as CUDA graphs: the device is handed all of a frame's kernels at once.

An eventful frame is many small kernels, and to launch them one by one from Python can take longer than to run them. A
graph has fixed shapes and never waits for the host. Policies that select r tokens need one graph; for those that
select as many as they see fit there is one for each of a few numbers of rows, and rows that are not needed are computed
for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from eventful.cli import one_line
from eventful.errors import StreamError, UserError
from eventful.export.exportable import watch
from eventful.export.programs import compare, handed_on
from eventful.graphs.step import FixedStep, StepState
from eventful.model import EventfulModel
from eventful.stream_checks import check_frame

HEADROOM = 1.25
"""How many rows a frame has for each that the frame before it asked for."""


class GraphedStream:
    """B streams of a model, one CUDA graph for every frame but flushes.

    On CUDA a frame is copied to where the graph reads it, and the graph edits the state in place. On other devices the
    same steps run without graphs, which is what the graphs are tested against.

    Where the policy selects as many tokens as it sees fit, a frame has as many rows as the frame before it asked for,
    and a quarter more, rounded up to one of `sizes`; the host reads that number when the next frame comes, and not in
    between. Should a frame ask for more rows than it has, the tokens with the highest scores get them, and the
    others stay as they are until the next frame, whose policy sees them again.

    Args:
        model: Made by `eventful.wrap`; the state of its own streams is left alone. Policy, budget and the number of
            selected tokens are those of now; weights may be loaded into the model later.
        frame: (B, 3, H, W), an example.
        sizes: Numbers of rows, for policies that select as many tokens as they see fit; all tokens are one of them in
            any case. Eight by default.

    Attributes:
        share: Share of the dense model's multiply-accumulates that the last frame took, rows that were not needed with
            it, flushes apart.
        rows: Number of rows at each gate of the last frame, flushes apart; None where the policy says it.
        captured: Whether frames are replayed from CUDA graphs.

    Raises:
        UserError: If the way the model is run has no fixed shapes, the policy remembers what has none, the model
            returns something else than tensors, or sizes do not fit; the message says what could be.
        StreamError: If the frame is no frame.
    """

    def __init__(self, model: EventfulModel, frame: Tensor, sizes: Sequence[int] | None = None) -> None:
        with torch.inference_mode(False), torch.no_grad():
            # What came out of inference mode cannot be edited outside of it.
            frame = frame.clone(memory_format=torch.contiguous_format)
            watched = watch(model, frame)
            flushed = watched.states[0]
            self._model, self._frame = model, frame
            self._state = StepState({place: _own(tensor) for place, tensor in handed_on(model, flushed).items()})
            self._flush_next = True
            self._steps: dict[int | None, FixedStep] = {}
            pool = None
            # The largest first: the others fit into the memory that its graph has taken.
            for size in reversed(_sizes(model, frame, watched.varies, sizes)):
                step = FixedStep(model, frame, flushed, self._state, size)
                if frame.device.type == "cuda":
                    pool = _captured(step, pool)
                self._steps[size] = step
            self._largest = next(iter(self._steps.values()))
            self.share, self.rows = self._largest.share, self._largest.size
            self._demand = torch.zeros((), dtype=torch.int64, pin_memory=frame.device.type == "cuda")
            self._brought: torch.cuda.Event | None = None
            self._asked = False
            compare(model, frame.clone(), lambda picture: self._next(picture, self._largest))
            self.reset()

    @property
    def captured(self) -> bool:
        """See the class."""
        return self._largest.graph is not None

    def reset(self) -> None:
        """Makes the next frame a flush, as at a scene cut."""
        self._flush_next = True

    def __call__(self, frame: Tensor) -> Any:
        """What the model returns for the next frame (B, 3, H, W) of the streams; the first one is a flush.

        Raises:
            StreamError: If the frame is not like the example, or has NaN or infinite pixels.
        """
        expected = self._frame
        if (frame.shape, frame.dtype, frame.device) != (expected.shape, expected.dtype, expected.device):
            raise StreamError(
                f"this stream was made for frames {tuple(expected.shape)} of {expected.dtype} on {expected.device}, "
                f"got {tuple(frame.shape)} of {frame.dtype} on {frame.device}"
            )
        check_frame(frame, self._model.vit)
        with torch.inference_mode(False), torch.no_grad():
            return self._next(frame, None)

    def _next(self, frame: Tensor, step: FixedStep | None) -> Any:
        """The next frame, with a given step or the one that fits."""
        self._frame.copy_(frame)
        if self._flush_next:
            outputs, state = self._model.step(self._frame, None)
            self._state.keep(handed_on(self._model, state))
            self._flush_next = self._asked = False
        else:
            step = self._fitting() if step is None else step
            outputs = step.run()
            self.share, self.rows = step.share, step.size
            self._ask(step)
        # The next frame writes to the same memory.
        return pytree.tree_map(_own, outputs)

    def _ask(self, step: FixedStep) -> None:
        """Has the number of rows that a frame asked for brought to the host, without waiting for it."""
        if step.demand is None:
            return
        self._demand.copy_(step.demand, non_blocking=True)
        self._asked = True
        if step.demand.device.type == "cuda":
            self._brought = torch.cuda.Event()
            self._brought.record()

    def _fitting(self) -> FixedStep:
        """The step with as many rows as the last frame asked for, and some; all rows where nobody has been asked."""
        if not self._asked:
            return self._largest
        if self._brought is not None:
            self._brought.synchronize()
        wanted = HEADROOM * int(self._demand)
        fitting = [size for size in self._steps if size is not None and size >= wanted]
        return self._steps[min(fitting)] if fitting else self._largest


def _sizes(model: EventfulModel, frame: Tensor, varies: bool, asked: Sequence[int] | None) -> Sequence[int | None]:
    """Numbers of rows, ascending; None alone for a policy that says it."""
    if not varies:
        if asked is not None:
            raise UserError(
                f"sizes: policy {model.policy.name} selects a number of tokens of its own, so there is one size"
            )
        return [None]
    if model.options.attention == "paper" and model.options.granularity == "gate":
        raise UserError(
            f'policy {model.policy.name} selects as many tokens as it sees fit, and attention="paper" would take rows '
            'that only fill up for selected ones; wrap with attention="recompute" or granularity="frame"'
        )
    if model.options.reference == "previous":
        raise UserError(
            f'policy {model.policy.name} selects as many tokens as it sees fit, and with reference="previous" what has '
            "no row in its frame would never be noticed again; wrap without it"
        )
    tokens = model.layout(frame).tokens
    chosen = [-(-tokens * k // 16) for k in (1, 2, 3, 4, 6, 8, 12)] if asked is None else list(asked)
    if not all(isinstance(size, int) and 0 < size <= tokens for size in chosen):
        raise UserError(f"sizes must be whole numbers from 1 to {tokens}, the number of tokens, got {list(chosen)}")
    return sorted({*chosen, tokens})


def _captured(step: FixedStep, pool: Any) -> Any:
    try:
        return step.capture(pool)
    except RuntimeError as error:
        raise UserError(
            f"a frame of this model cannot be captured, because a part of it, or its policy, waits for the device: "
            f"{one_line(error)}"
        ) from error


def _own(leaf: Any) -> Any:
    """A copy of a tensor; numbers and what is not there stay."""
    if isinstance(leaf, Tensor):
        return leaf.clone(memory_format=torch.contiguous_format)
    if leaf is None or isinstance(leaf, (bool, int, float, str)):
        return leaf
    kind = type(leaf).__name__
    raise UserError(f"the model returns a {kind}; needed are tensors, or tuples, lists and dicts of them")
