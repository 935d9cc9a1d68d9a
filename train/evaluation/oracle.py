"""How far a choice of tokens could go: the r updates of each gate that are worth most on this very frame.

It is told the dense model's outputs, so it can be deployed nowhere, and what it costs itself is not counted. Rolled out
over held-out clips it is evidence about the room that is left above rules and learned policies. It spends the same on
every frame, and looks no further than the frame: no strict bound.

Shape suffixes: B streams, N tokens, G gates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from envs.benefit import update_benefits
from envs.damage import PRESETS, DamageMeter, default_kind
from envs.task import VideoTask
from eventful import EventfulModel
from policies import GateObservation, Policy, Selection


class Oracle(Policy):
    """Selects the r tokens with the greatest benefit; has to `foresee` every frame before the model runs on it.

    Args:
        task: Task, which says what damage is: of the outputs, where it says how far they have moved.
        model: Eventful model around the task's.
        r: Number of tokens per gate and stream.
    """

    def __init__(self, task: VideoTask, model: EventfulModel, r: int) -> None:
        self.r = r
        self._objective = PRESETS[default_kind(task)]
        self._meter = DamageMeter(task, model.backbone, output=self._objective.needs_outputs)
        self._benefit_GBN: Tensor | None = None

    def foresee(self, model: EventfulModel, frame: Tensor) -> None:
        """Finds the benefits of all updates of the frame (B, 3, H, W) to which the model comes next."""
        if model.state is None:
            return
        # What inference mode has made cannot take part in a backward pass, copies can.
        with torch.inference_mode(False), torch.enable_grad():
            state = model.state.clone()
            self._benefit_GBN = update_benefits(model, self._meter, self._objective, frame.clone(), [], state)

    def select(self, observation: GateObservation) -> Selection:
        """See `Policy.select`.

        Raises:
            RuntimeError: If the frame has not been foreseen.
        """
        if self._benefit_GBN is None:
            raise RuntimeError("the oracle has to foresee() a frame before the model runs on it")
        return Selection.top(self._benefit_GBN[observation.gate], self.r, observation.layout.pinned)
