"""Streams that stand at the same gate of the same model, and share its forward passes.

Shape suffixes: B streams, N tokens, G gates, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from envs.observation import selection
from eventful.errors import StreamError
from eventful.gates import drive
from eventful.macs.ledger import FrameMacs
from eventful.model import EventfulModel, Step
from eventful.state import StreamState
from policies.protocol import GateObservation, Selection

Inputs = Callable[[Sequence[int]], Tensor]
"""Streams to the frames that they stand at, as model input (B, 3, H, W)."""


@dataclass(frozen=True)
class Slot:
    """Where a stream stands.

    Attributes:
        clip: Index of the clip.
        frame: Index of the clip's frame that is to be decided on.
        budget: Target share of the dense MACs.
        over: Whether the clip has been played to its end.
    """

    clip: int
    frame: int
    budget: float
    over: bool = False


class Lockstep:
    """Some streams in step.

    Args:
        model: Eventful model that runs the streams.
        streams: Indices of the streams, ascending.
        state: State of these streams after the last complete frame.

    Attributes:
        gate: Index of the gate at which the streams stand, 0 to G - 1.
        frames_BCHW: Current frames of the streams, as the model takes them.
        features: Features that the model made of the last complete frame.
    """

    frames_BCHW: Tensor
    features: Tensor

    def __init__(self, model: EventfulModel, streams: list[int], state: StreamState) -> None:
        self.model, self.streams, self.state = model, streams, state
        self.gate = 0
        self._step: Step | None = None
        self._observation: GateObservation | None = None

    @classmethod
    def flushed(cls, model: EventfulModel, streams: list[int], inputs: Inputs) -> Lockstep:
        """Streams at their first frame, which is computed densely."""
        _, state = drive(model.decisions(inputs(streams), None), _no_decision)
        return cls(model, streams, state)

    @classmethod
    def joined(cls, groups: Sequence[Lockstep]) -> Lockstep:
        """Groups between two frames as one, in order of the streams."""
        if len(groups) == 1:
            return groups[0]
        streams = [b for group in groups for b in group.streams]
        order = sorted(range(len(streams)), key=streams.__getitem__)
        state = StreamState.cat([group.state for group in groups]).select(order)
        return cls(groups[0].model, sorted(streams), state)

    def begin(self, inputs: Inputs) -> None:
        """Shows the streams their frames, up to the first gate."""
        self.frames_BCHW = inputs(self.streams)
        self.gate = 0
        self._step = self.model.decisions(self.frames_BCHW, self.state)
        self._observation = next(self._step)

    def observe(self, copy: bool = False) -> GateObservation:
        """What the gate at which the streams stand shows; with `copy`, all tensors outlive the next step."""
        if self._observation is None:
            raise StreamError("the streams stand between two frames")
        return _copied(self._observation) if copy else self._observation

    def decide(self, mask_BN: Tensor) -> bool:
        """Answers the gate; returns whether the frame is complete."""
        if self._step is None or self._observation is None:
            raise StreamError("the streams stand between two frames")
        chosen = selection(mask_BN.to(self.frames_BCHW.device), self._observation.layout)
        try:
            self._observation = self._step.send(chosen)
        except StopIteration as stop:
            self.features, self.state = stop.value
            self._step = self._observation = None
            self.gate = 0
            return True
        self.gate += 1
        return False

    @property
    def macs(self) -> FrameMacs:
        """MACs of the last complete frame."""
        if self.state.macs is None:
            raise StreamError("no frame has been computed yet")
        return self.state.macs

    def rates(self) -> Tensor:
        """What the gates of the last frame updated (B, G, N), 0 or 1."""
        return self.state.updated().float()

    def without(self, streams: set[int], inputs: Inputs) -> Lockstep | None:
        """The group after some streams have left it, None if all have.

        Raises:
            StreamError: If the rest is in the middle of a frame: a forward pass cannot lose streams.
        """
        keep = [i for i, b in enumerate(self.streams) if b not in streams]
        if len(keep) == len(self.streams):
            return self
        if not keep:
            return None
        if self.gate:
            raise StreamError("streams can leave others only between two frames")
        # The frame has been shown, but nothing has been written to the state; a policy may have taken notes.
        memory = self.observe().memory
        state = dataclasses.replace(self.state, memory=dict(memory)).select(keep)
        rest = Lockstep(self.model, [self.streams[i] for i in keep], state)
        rest.begin(inputs)
        return rest


def _copied(observation: GateObservation) -> GateObservation:
    names = [f.name for f in dataclasses.fields(observation)]
    tensors = {name: getattr(observation, name) for name in names if isinstance(getattr(observation, name), Tensor)}
    return dataclasses.replace(observation, **{name: tensor.clone() for name, tensor in tensors.items()})


def _no_decision(observation: GateObservation) -> Selection:
    raise StreamError("a flush has no decisions")
