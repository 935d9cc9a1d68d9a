"""Streams whose frames are replayed as one CUDA graph: the device is handed all of a frame's kernels at once.

An eventful frame is many small kernels, and to launch them one by one from Python can take longer than to run them. A
graph has fixed shapes and never waits for the host, so what can be graphed is what can be exported.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from eventful.cli import one_line
from eventful.errors import StreamError, UserError
from eventful.export.exportable import refuse_what_varies
from eventful.export.programs import Step, compare, handed_on
from eventful.frame_plan import make_plan
from eventful.model import EventfulModel
from eventful.stream_checks import check_frame

WARMUP = 3
"""Runs ahead of the capture, in which libraries choose kernels and allocate what they keep."""


class GraphedStream:
    """B streams of a model with a fixed number of selected tokens, one graph for every frame but flushes.

    On CUDA a frame is copied to where the graph reads it, and the graph edits the state in place. On other devices the
    same step runs without a graph, which is what the graph is tested against.

    Args:
        model: Made by `eventful.wrap`; the state of its own streams is left alone. Policy, budget and the number of
            selected tokens are those of now; weights may be loaded into the model later.
        frame: (B, 3, H, W), an example.

    Attributes:
        share: Share of the dense model's multiply-accumulates that a frame takes, flushes apart.
        captured: Whether frames are replayed from a CUDA graph.

    Raises:
        UserError: If the way the model is run, or its policy, has no fixed shapes, or the model returns something else
            than tensors; the message says what could be.
        StreamError: If the frame is no frame.
    """

    def __init__(self, model: EventfulModel, frame: Tensor) -> None:
        with torch.inference_mode(False), torch.no_grad():
            # What came out of inference mode cannot be edited outside of it.
            frame = frame.clone(memory_format=torch.contiguous_format)
            states = refuse_what_varies(model, frame)
            macs = states[-1].macs
            if macs is None:
                raise RuntimeError("the model has reported nothing about a frame")
            self.share = float(macs.share[0])
            self._model, self._frame = model, frame
            self._step = Step(model, make_plan(model.backbone, model.options, frame), states[0])
            self._state = {place: _own(tensor) for place, tensor in handed_on(model, states[0]).items()}
            self._flush_next = True
            self._graph: torch.cuda.CUDAGraph | None = None
            if frame.device.type == "cuda":
                self._graph = self._captured()
            compare(model, frame.clone(), self)
            self.reset()

    @property
    def captured(self) -> bool:
        """See the class."""
        return self._graph is not None

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
        check_frame(frame)
        with torch.inference_mode(False), torch.no_grad():
            self._frame.copy_(frame)
            if self._flush_next:
                outputs, state = self._model.step(self._frame, None)
                self._keep(handed_on(self._model, state))
                self._flush_next = False
            elif self._graph is None:
                outputs = self._advance()
            else:
                self._graph.replay()
                outputs = self._outputs
            # The next frame writes to the same memory.
            return pytree.tree_map(_own, outputs)

    def _captured(self) -> torch.cuda.CUDAGraph:
        device = self._frame.device
        aside = torch.cuda.Stream(device)
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            for _ in range(WARMUP):
                self._advance()
        torch.cuda.current_stream(device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._outputs = self._advance()
        except RuntimeError as error:
            raise UserError(
                f"a frame of this model cannot be captured, because a part of it, or its policy, waits for the device: "
                f"{one_line(error)}"
            ) from error
        return graph

    def _advance(self) -> Any:
        """One step on the frame and the state that are held."""
        outputs, state = self._step.edit(self._frame, self._state)
        self._keep(state)
        return outputs

    def _keep(self, state: dict[str, Tensor]) -> None:
        """Writes a state to where it is held; most of it has been edited there."""
        held = {tensor.data_ptr() for tensor in self._state.values()}
        new = {place: tensor for place, tensor in state.items() if tensor.data_ptr() != self._state[place].data_ptr()}
        # What was one entry a frame ago may be another one now, and is about to be overwritten.
        new = {place: tensor.clone() if tensor.data_ptr() in held else tensor for place, tensor in new.items()}
        for place, tensor in new.items():
            self._state[place].copy_(tensor)


def _own(leaf: Any) -> Any:
    """A copy of a tensor; numbers and what is not there stay."""
    if isinstance(leaf, Tensor):
        return leaf.clone(memory_format=torch.contiguous_format)
    if leaf is None or isinstance(leaf, (bool, int, float, str)):
        return leaf
    kind = type(leaf).__name__
    raise UserError(f"the model returns a {kind}; needed are tensors, or tuples, lists and dicts of them")
