"""The frame step of an eventful model as programs of `torch.export`, with the state as inputs and outputs.

A step with a fixed number of selected tokens has fixed shapes, so it can be traced. Two programs make a stream: the
flush, from a frame to outputs and state, and the step, from a frame and a state to outputs and state. A state is a
table of tensors by their places in `StreamState`; frames are counted from the next one, so that no frame's number is
in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from eventful.cli import one_line
from eventful.errors import UserError
from eventful.export.exportable import STEPS, moved, refuse_what_varies
from eventful.frame_plan import FramePlan, make_plan
from eventful.gates import Decide, FrameRun, drive, one_frame
from eventful.model import EventfulModel
from eventful.state import StreamState
from eventful.stream_checks import fresh_state, look

Tensors = dict[str, Tensor]

TOLERANCE = 1e-4
"""Largest difference from the model's own outputs, over their largest value, with which programs are handed out."""

ROUNDING = 30
"""The same for types narrower than float32, in units of the type's precision."""


@dataclass(frozen=True)
class Exported:
    """An eventful model as two programs.

    Attributes:
        flush: (frame) to (outputs, state): everything is computed.
        step: (frame, state) to (outputs, state): the policy's tokens alone.
        share: Share of the dense model's multiply-accumulates that a step takes.
    """

    flush: ExportedProgram
    step: ExportedProgram
    share: float

    def save(self, folder: Path | str) -> None:
        """Writes `flush.pt2` and `step.pt2`.

        Raises:
            OSError: If the folder cannot be written.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        torch.export.save(self.flush, Path(folder) / "flush.pt2")
        torch.export.save(self.step, Path(folder) / "step.pt2")

    def save_onnx(self, folder: Path | str) -> None:
        """Writes `flush.onnx` and `step.onnx`; needs the extra `onnx`.

        A program takes `frame` and the state as `state:PLACE`, and gives `outputs` and the state as `next:PLACE`.

        Raises:
            UserError: If a part has no ONNX counterpart, or the extra is not installed.
            OSError: If the folder cannot be written.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, program in (("flush", self.flush), ("step", self.step)):
            self._onnx(program).save(str(Path(folder) / f"{name}.onnx"))

    def _onnx(self, program: ExportedProgram) -> torch.onnx.ONNXProgram:
        outputs, state = pytree.tree_unflatten(
            list(range(program.call_spec.out_spec.num_leaves)), program.call_spec.out_spec
        )
        count = len(pytree.tree_leaves(outputs))
        results = ["outputs"] if count == 1 else [f"outputs:{i}" for i in range(count)]
        inputs = ["frame", *(f"state:{place}" for place in state if program is self.step)]
        names = [*results, *(f"next:{place}" for place in state)]
        try:
            made = torch.onnx.export(program, dynamo=True, verbose=False, input_names=inputs, output_names=names)
        except ImportError as error:
            raise UserError("ONNX needs: pip install 'eventful-policies[onnx]'") from error
        except torch.onnx.errors.OnnxExporterError as error:
            raise UserError(f"a part of the model has no ONNX counterpart: {_last_line(error)}") from error
        if made is None:
            raise RuntimeError("the exporter has returned nothing")
        return made


@torch.no_grad()
def export_model(model: EventfulModel, frame: Tensor) -> Exported:
    """Exports a model for frames of one shape and one number of streams.

    Weights, policy, budget and the number of tokens that are selected are those of now. Before the programs are handed
    out they are run beside the model, on a flush and two steps.

    Args:
        model: Made by `eventful.wrap`; the state of its own streams is left alone.
        frame: (B, 3, H, W), an example.

    Raises:
        UserError: If the way the model is run, or its policy, has no fixed shapes, or a part cannot be traced; the
            message says what could be.
        StreamError: If the frame is no frame.
    """
    states = refuse_what_varies(model, frame)
    plan = make_plan(model.backbone, model.options, frame)
    # Layers as the model has them: those made for this machine would bind the programs to it.
    plan = dataclasses.replace(plan, blocks=model.backbone.blocks(plan.layout.grid))
    flush = _traced(_Flush(model, plan), frame)
    # After a flush, two entries may be one tensor, and the tracer would take them for one ever after.
    example = {path: tensor.clone() for path, tensor in handed_on(model, states[0]).items()}
    step = _traced(Step(model, plan, states[0]), frame, example)
    macs = states[-1].macs
    if macs is None:
        raise RuntimeError("the model has reported nothing about a frame")
    exported = Exported(flush, step, float(macs.share[0]))
    compare(model, frame, _player(exported))
    return exported


class _Program(nn.Module):
    """What is traced: a frame through the parts of a model."""

    def __init__(self, model: EventfulModel, plan: FramePlan, decide: Decide | None = None) -> None:
        super().__init__()
        # Weights are found by the modules that hold them; the policy of a model is not one of its modules.
        self.vit = model.vit
        self.policy = model.policy if isinstance(model.policy, nn.Module) else None
        self._model, self._backbone, self._plan = [model], [model.backbone], plan
        self._decide: list[Decide] = [decide or model.policy.select]

    def _run(self, frame: Tensor, state: StreamState, flush: bool) -> tuple[Any, Tensors]:
        model, backbone, plan = self._model[0], self._backbone[0], self._plan
        run = FrameRun(plan, model.options, state, flush, masked=False, policy=model.policy)
        features, after = drive(one_frame(run, backbone, frame), self._decide[0])
        outputs = backbone.head(features)
        if model.saliency is not None:
            look(after, outputs, model.saliency, plan.layout)
        return outputs, handed_on(model, after)


class _Flush(_Program):
    """(frame) to (outputs, state)."""

    def forward(self, frame: Tensor) -> tuple[Any, Tensors]:
        return self._run(frame, fresh_state(frame, len(self._plan.blocks), 0, None), flush=True)


class Step(_Program):
    """(frame, state) to (outputs, state); another one than the model's policy may decide."""

    def __init__(self, model: EventfulModel, plan: FramePlan, like: StreamState, decide: Decide | None = None) -> None:
        super().__init__(model, plan, decide)
        self._like = [_bare(model, like)]

    def forward(self, frame: Tensor, state: Tensors) -> tuple[Any, Tensors]:
        """A step that leaves the given state as it is."""
        # Packed rows are written in place; what the caller holds must not change.
        return self.edit(frame, {path: tensor.clone() for path, tensor in state.items()})

    def edit(self, frame: Tensor, state: Tensors) -> tuple[Any, Tensors]:
        """The same, writing to the tensors of the state; what comes out may share memory with them."""
        tensors = state | {"flush_B": torch.zeros(frame.shape[0], dtype=torch.bool, device=frame.device)}
        return self._run(frame, self._like[0].with_tensors(tensors), flush=False)


def _bare(model: EventfulModel, state: StreamState) -> StreamState:
    """The state without what no later frame reads, or can compute again."""
    flushed_B = None if model.saliency is None else state.flushed_B
    blocks = [dataclasses.replace(block, shared={}) for block in state.blocks]
    return dataclasses.replace(state, blocks=blocks, macs=None, flushed_B=flushed_B).counted_from_now()


def handed_on(model: EventfulModel, state: StreamState) -> Tensors:
    """The tensors that a program gives and the next one takes: whether it is a flush is said by which program it is."""
    return {path: tensor for path, tensor in _bare(model, state).named_tensors().items() if path != "flush_B"}


def _traced(program: nn.Module, *arguments: Any) -> ExportedProgram:
    try:
        return torch.export.export(program, arguments, strict=False)
    except Exception as error:
        # Whatever the tracer makes of a part whose shapes or branches depend on values.
        raise UserError(f"a part of the model cannot be exported: {one_line(error)}") from error


def _last_line(error: BaseException) -> str:
    """The innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)


def compare(model: EventfulModel, frame: Tensor, run: Callable[[Tensor], Any]) -> None:
    """Runs a flush and two steps beside the model.

    Args:
        model: Made by `eventful.wrap`.
        frame: (B, 3, H, W).
        run: Frame to outputs, frame after frame.

    Raises:
        UserError: If outputs differ by more than rounding.
    """
    state = None
    for k in range(1 + STEPS):
        picture = moved(frame, k)
        _, outputs, state = model.step_with_features(picture, state, model.policy.select)
        found = pytree.tree_leaves(run(picture))
        _refuse_difference(found, pytree.tree_leaves(outputs), "flush" if k == 0 else "step")


def _player(exported: Exported) -> Callable[[Tensor], Any]:
    flush, step = exported.flush.module(), exported.step.module()
    state: Tensors | None = None

    def run(frame: Tensor) -> Any:
        nonlocal state
        outputs, state = flush(frame) if state is None else step(frame, state)
        return outputs

    return run


def _refuse_difference(found: Iterable[Any], expected: Iterable[Any], which: str) -> None:
    for a, b in zip(found, expected, strict=True):
        if not isinstance(b, Tensor) or not b.numel():
            continue
        precision = torch.finfo(b.dtype).eps if b.is_floating_point() else 0.0
        a, b = a.double(), b.double()
        difference = float((a - b).abs().max() / b.abs().max().clamp(min=1e-12))
        if not difference <= max(TOLERANCE, ROUNDING * precision):
            raise UserError(
                f"a {which} of fixed shapes gives other outputs than the model, by {difference:.1e} of the largest; a "
                "policy that draws random numbers, for one, does"
            )
