"""A frame step of fixed shapes, and the state that it edits where it lies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eventful.export.programs import Step
from eventful.frame_plan import make_plan
from eventful.graphs.filling import Filling
from eventful.model import EventfulModel
from eventful.state import StreamState

WARMUP = 3
"""Runs ahead of the capture, in which libraries choose kernels and allocate what they keep."""


class StepState:
    """The tensors of a state, at addresses that stay.

    Args:
        tensors: By their places in `StreamState`; owned from now on.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def keep(self, state: dict[str, Tensor]) -> None:
        """Writes a state to where it is held; most of it has been edited there."""
        held = {tensor.data_ptr() for tensor in self.tensors.values()}
        new = {at: tensor for at, tensor in state.items() if tensor.data_ptr() != self.tensors[at].data_ptr()}
        # What was one entry a frame ago may be another one now, and is about to be overwritten.
        new = {at: tensor.clone() if tensor.data_ptr() in held else tensor for at, tensor in new.items()}
        for at, tensor in new.items():
            self.tensors[at].copy_(tensor)


class FixedStep:
    """A step on a frame and a state that lie at fixed addresses.

    Args:
        model: Made by `eventful.wrap`.
        frame: (B, 3, H, W); read at each run.
        flushed: State of the model after a flush of such a frame.
        state: Read and written at each run.
        size: Number of rows at every gate, of which the policy's tokens are some; None where the policy selects a
            number of tokens of its own.

    Attributes:
        size: The same.
        share: Share of the dense model's multiply-accumulates that a run takes.
        graph: CUDA graph of a run, once there is one.
        demand: Number of tokens that the policy asked for in the last run (0-d, int64); None without a size.
    """

    def __init__(
        self, model: EventfulModel, frame: Tensor, flushed: StreamState, state: StepState, size: int | None
    ) -> None:
        self.size = size
        self._frame, self._state = frame, state
        self._filling = None if size is None else Filling(model.policy, size)
        decide = self._filling or model.policy.select
        macs = model.step_with_features(frame, flushed.clone(), decide)[2].macs
        if macs is None:
            raise RuntimeError("the model has reported nothing about a frame")
        self.share = float(macs.share[0])
        self._step = Step(model, make_plan(model.backbone, model.options, frame), flushed, decide)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.demand: Tensor | None = None
        self._outputs: Any = None
        if self._filling is not None:
            self._filling.demand()

    def run(self) -> Any:
        """What the model returns; on CUDA it is overwritten by the next run of a graph."""
        if self.graph is None:
            self._advance()
        else:
            self.graph.replay()
        return self._outputs

    def capture(self, pool: Any) -> Any:
        """Captures the step as a CUDA graph; returns the pool of memory that it lies in.

        Args:
            pool: That of other graphs, of which one runs at a time; None for a new one.

        Raises:
            RuntimeError: If a part waits for the device.
        """
        device = self._frame.device
        aside = torch.cuda.Stream(device)
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            for _ in range(WARMUP):
                self._advance()
        torch.cuda.current_stream(device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            self._advance()
        self.graph = graph
        return graph.pool()

    def _advance(self) -> None:
        self._outputs, state = self._step.edit(self._frame, self._state.tensors)
        self._state.keep(state)
        self.demand = None if self._filling is None else self._filling.demand()
