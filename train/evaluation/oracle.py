"""How far a choice of tokens could go: the updates that are worth most on this very frame.

Oracles are told the dense model's outputs, so they can be deployed nowhere, and what they cost is not counted. Rolled
out over held-out clips they are evidence about the room that is left above rules and learned policies. One spends the
same on every frame, the other where it pays; neither looks further than the frame: no strict bounds.

Shape suffixes: B streams, N tokens, G gates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from envs.benefit import update_benefits
from envs.damage import PRESETS, DamageMeter, default_kind
from envs.task import VideoTask
from eventful import EventfulModel
from policies import GateObservation, Policy, Selection

_LEAST = 1e-12
"""Lowest price."""

_GAIN = 0.05
"""How much the logarithm of a price rises for each frame that has twice as many tokens as the mean should."""


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
        return Selection.top(self._benefits(observation), self.r, observation.layout.pinned)

    def _benefits(self, observation: GateObservation) -> Tensor:
        if self._benefit_GBN is None:
            raise RuntimeError("the oracle has to foresee() a frame before the model runs on it")
        return self._benefit_GBN[observation.gate]


class PricedOracle(Oracle):
    """Selects every token whose benefit is above a price: more in one frame, fewer in another.

    The price is steered so that the mean over all frames and streams comes to r tokens a gate.

    Args:
        task: See `Oracle`.
        model: See `Oracle`.
        r: Number of tokens per gate and stream, in the mean.
    """

    def __init__(self, task: VideoTask, model: EventfulModel, r: int) -> None:
        super().__init__(task, model, r)
        self._log_price: float | None = None

    def select(self, observation: GateObservation) -> Selection:
        """See `Policy.select`.

        Raises:
            RuntimeError: If the frame has not been foreseen.
        """
        benefit_BN = self._benefits(observation)
        if self._log_price is None:
            start = float(benefit_BN.flatten().topk(min(self.r * len(benefit_BN), benefit_BN.numel())).values[-1])
            self._log_price = math.log(max(start, _LEAST))
        selection = Selection.where(benefit_BN > math.exp(self._log_price), observation, benefit_BN)
        excess = float(selection.as_mask(benefit_BN.shape[1]).sum()) / (self.r * len(benefit_BN)) - 1
        self._log_price = max(self._log_price + _GAIN / observation.layout.gates * excess, math.log(_LEAST))
        return selection
