"""The Gumbel estimator: hard masks, relaxed gradients, through windows of masked execution.

Masks are straight-through binary concrete samples (`policies.relaxation`) of logits sharpness * score; gradients of the
loss flow through the blended buffers of all T frames of a window, and are cut between windows. The states that windows
start from are the ones that the policy itself has left behind. Loss:

    mean over streams and frames of damage  +  price * mean over streams and frames of (cost / budget)

Cost is the ledger's share of dense MACs, a differentiable function of the masks; the price is that of
`train.estimators.budget_control`.

Shape suffixes: B streams, T frames, N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import torch
from torch import Tensor

import eventful
from envs.damage import Damage, Objective
from envs.task import VideoTask
from eventful import StreamState
from eventful.checks.ranges import check_ranges, setting
from policies import GateObservation, Selection, TrainablePolicy
from policies.relaxation import concrete_mask
from train import distributed
from train.estimators.budget_control import BudgetControl
from train.estimators.protocol import WindowOptions, WindowRecord, WindowResult, differentiable_meter
from train.estimators.streams import StreamBatch, StreamSource, begin


@dataclass(frozen=True)
class GumbelOptions:
    """Settings of the Gumbel estimator.

    Attributes:
        temperature: Temperature of the relaxed decisions, above 0.
        noise: Whether masks are drawn; if not, the deterministic rule is trained with straight-through gradients.

    Raises:
        ValueError: If a value is out of range.
    """

    temperature: float = setting(2 / 3, "(0, 1000]", also="temperature")
    noise: bool = field(default=True, metadata={"also": "noise"})

    def __post_init__(self) -> None:
        check_ranges(self, "gumbel.")


class GumbelEstimator:
    """Hard masks with relaxed gradients through masked execution; implements `Estimator`.

    Args:
        task: Task whose `preprocess` makes model inputs, and which scores outputs against labels.
        model: Eventful model around the task's model.
        policy: Policy to be trained.
        objective: Damage that is to be kept small.
        source: Source of this process's streams.
        budget_control: Price of compute, and thresholds that follow the budget.
        windows: Length of the windows, between which gradients are cut, and sharpness of the logits.
        options: Temperature and noise of the relaxed decisions.
    """

    def __init__(
        self,
        task: VideoTask,
        model: eventful.EventfulModel,
        policy: TrainablePolicy,
        objective: Objective,
        source: StreamSource,
        budget_control: BudgetControl,
        windows: WindowOptions,
        options: GumbelOptions,
    ) -> None:
        self._task, self._model, self._policy, self._objective = task, model, policy, objective
        self._meter = differentiable_meter(task, model, objective)
        self._source, self.budget_control = source, budget_control
        self._window, self._sharpness, self._options = windows.window, windows.sharpness, options
        self._streams: StreamBatch | None = None
        self._state: StreamState | None = None

    def begin(self, seed: str) -> None:
        """See `Estimator.begin`."""
        self._streams, self._state = self._source.batch(seed), None

    def window(self) -> WindowResult:
        """See `Estimator.window`."""
        if self._streams is None:
            raise RuntimeError("begin() comes before window()")
        record = WindowRecord()
        damages: list[Damage] = []
        relative: list[Tensor] = []
        counted: list[Tensor] = []
        budgets: list[Tensor] = []
        state = self._state
        device = next(self._model.parameters()).device
        shift = torch.zeros((), device=device, requires_grad=True)
        for batch in islice(self._streams, self._window):
            frame = self._task.preprocess(batch.frames_BHWC.to(device))
            budget_B = batch.budget_B.to(device)
            decide = partial(self._decide, budget_B=budget_B, shift=shift, noise=self._streams.noise)
            features, state = eventful.drive(self._model.decisions(frame, begin(state, batch), masked=True), decide)
            outcome = self._meter.outcome(features, batch.targets)
            damages.append(self._meter.damage(outcome, self._meter.dense(frame, batch.targets)))
            relative.append(state.macs.share.float() / budget_B)  # type: ignore[union-attr]
            record.frame(state)
            counted.append(~batch.first_B.to(device))
            budgets.append(budget_B)
        self._state = None if state is None else state.detach()
        stats = self._backward(damages, torch.stack(relative), torch.stack(counted), torch.stack(budgets), shift)
        layout = self._model.layout(frame)
        return record.result(stats, layout.tokens, layout.gates)

    def _backward(
        self, damages: Sequence[Damage], relative_TB: Tensor, counted_TB: Tensor, budget_TB: Tensor, shift: Tensor
    ) -> dict[str, float]:
        weight_TB = counted_TB.float()
        seen = distributed.mean(weight_TB.sum())
        count = seen.clamp(min=1e-6)

        def mean(values: Sequence[Tensor]) -> Tensor:
            return (torch.stack(list(values)) * weight_TB).sum() / count

        loss = mean([self._objective.of_frame(damage) for damage in damages])
        share_over_budget = (relative_TB * weight_TB).sum() / count
        if seen > 0:
            # Also where all of this process's streams are at a flush: the others wait for its share.
            self.budget_control.backward(loss + 0 * shift, share_over_budget + 0 * shift, shift)
            frames_B = weight_TB.sum(0)
            # A stream that begins a clip within the window has two budgets: their geometric mean stands for both.
            budget_B = ((budget_TB.log() * weight_TB).sum(0) / frames_B.clamp(min=1)).exp()
            relative_B = (relative_TB.detach() * weight_TB).sum(0) / frames_B.clamp(min=1)
            self.budget_control.steer(budget_B, torch.where(frames_B > 0, relative_B, 1.0))
        stats = {
            "loss": loss,
            "distance": mean([damage.distance_B for damage in damages]),
            "distance_worst": mean([damage.worst_B for damage in damages]),
            "share_over_budget": share_over_budget,
        }
        if self._objective.task:
            stats["task_loss_above_dense"] = mean([damage.loss_B for damage in damages if damage.loss_B is not None])
        if self._objective.needs_outputs:
            stats["output_distance"] = mean([damage.output_B for damage in damages if damage.output_B is not None])
        return {name: float(distributed.mean(value)) for name, value in stats.items()} | {
            "price": self.budget_control.price
        }

    def _decide(
        self,
        observation: GateObservation,
        budget_B: Tensor,
        shift: Tensor,
        noise: Sequence[torch.Generator],
    ) -> Selection:
        options = self._options
        logit_BN = self._sharpness * self._policy.logit(observation, budget_B) + shift
        rows = [
            concrete_mask(logit_N, options.temperature, options.noise, generator)
            for logit_N, generator in zip(logit_BN, noise, strict=True)
        ]
        mask_BN = torch.stack(rows)
        pinned = observation.layout.pinned
        if pinned:
            mask_BN = torch.cat([torch.ones_like(mask_BN[:, :pinned]), mask_BN[:, pinned:]], 1)
        return Selection(mask_BN=mask_BN)
