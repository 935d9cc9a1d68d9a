"""Damage: how much worse than the dense model's a frame turned out. One definition for losses, rewards and reports.

    damage = fidelity * distance + worst * (mean of the 20 largest distances)
             + output * output distance + output_worst * (mean of the 20 largest output distances)
             + task * (loss - dense loss) + metric * (dense metric - metric)

on the same frame, with `distance` the mean over tokens of 1 - cosine (0 to 2), `output distance` the mean over tokens
of the task's `output_distance`, and `loss` and `metric` the task's, all in their own units. Zero for the dense model.
All but the metric can be differentiated; distances need no labels.

Shape suffixes: B streams, N tokens, D channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from envs.task import Target, VideoTask, offers
from eventful.checks.ranges import check_ranges, setting
from eventful.families.backbone import Backbone
from eventful.fidelity import WORST, as_tokens, distances, mean_and_worst
from eventful.tensor_tree import bytes_of, cat_tensors, map_tensors, stream_of


@dataclass(frozen=True)
class Objective:
    """What a policy is to keep: weights of the kinds of damage.

    Attributes:
        fidelity: Weight of the mean distance of the final tokens to the dense model's.
        worst: Weight of the mean distance of the 20 worst tokens.
        task: Weight of the task loss above the dense model's (labelled tasks).
        metric: Weight of the task's metric of the frame below the dense model's (labelled tasks; not differentiable).
        output: Weight of the mean distance of the outputs to the dense model's (tasks that offer `output_distance`).
        output_worst: Weight of the mean output distance of the 20 worst tokens.

    Raises:
        ValueError: If a weight is out of range, or all are zero.
    """

    fidelity: float = setting(1.0, "[0, 1e6]")
    worst: float = setting(0.2, "[0, 1e6]")
    task: float = setting(0.0, "[0, 1e6]")
    metric: float = setting(0.0, "[0, 1e6]")
    output: float = setting(0.0, "[0, 1e6]")
    output_worst: float = setting(0.0, "[0, 1e6]")

    def __post_init__(self) -> None:
        check_ranges(self, "objective.")
        if not any(dataclasses.asdict(self).values()):
            raise ValueError("the weights of an objective must not all be 0")

    @property
    def needs_labels(self) -> bool:
        """Whether it can be computed only where there are labels."""
        return self.task > 0 or self.metric > 0

    @property
    def needs_outputs(self) -> bool:
        """Whether it can be computed only where the task offers `output_distance`."""
        return self.output > 0 or self.output_worst > 0

    def of_frame(self, damage: Damage) -> Tensor:
        """The weighted sum for each stream (B,)."""
        kinds = {
            "fidelity": damage.distance_B,
            "worst": damage.worst_B,
            "task": damage.loss_B,
            "metric": damage.metric_B,
            "output": damage.output_B,
            "output_worst": damage.output_worst_B,
        }
        total = torch.zeros_like(damage.distance_B)
        for name, value_B in kinds.items():
            if getattr(self, name) and value_B is not None:
                total = total + getattr(self, name) * value_B
        return total

    def by_token(self, damage: Damage) -> Tensor | None:
        """Each token's part of `of_frame` (B, N); None where a part is one of the whole frame."""
        if self.metric or (self.task and damage.loss_BN is None):
            return None
        total_BN = _by_token(damage.distance_BN, self.fidelity, self.worst)
        if self.needs_outputs:
            output_BN = damage.output_BN
            if output_BN is None or output_BN.shape[1] == 1:
                return None
            part_BN = _by_token(output_BN, self.output, self.output_worst)
            total_BN = total_BN + F.pad(part_BN, (total_BN.shape[1] - part_BN.shape[1], 0))
        return total_BN if not self.task or damage.loss_BN is None else total_BN + self.task * damage.loss_BN


def _by_token(distance_BN: Tensor, mean: float, worst: float) -> Tensor:
    """Each token's part of mean * (their mean) + worst * (mean of the worst)."""
    worst_BW = distance_BN.topk(min(WORST, distance_BN.shape[1]), dim=1).indices
    weight_BN = torch.full_like(distance_BN, mean / distance_BN.shape[1])
    extra_BW = torch.full_like(distance_BN[:, :WORST], worst / worst_BW.shape[1])
    return distance_BN * weight_BN.scatter_add(1, worst_BW, extra_BW)


PRESETS = {
    "fidelity": Objective(fidelity=1.0, worst=0.1),
    "loss": Objective(fidelity=0.0, worst=0.0, task=1.0),
    "metric": Objective(fidelity=0.0, worst=0.0, metric=1.0),
    "output": Objective(fidelity=0.0, worst=0.0, output=1.0, output_worst=0.1),
}
"""Objectives by name."""


def default_kind(task: VideoTask) -> str:
    """What to keep where nothing else is said: what the consumer sees, if the task says what that is."""
    return "output" if offers(task, "output_distance") else "fidelity"


@dataclass(frozen=True)
class Damage:
    """Of one frame of B streams.

    Attributes:
        distance_BN: Distance of each final token to the dense model's.
        distance_B: Mean over the tokens.
        worst_B: Mean over the 20 largest.
        loss_B: Excess of the task loss; None if it was not asked for.
        loss_BN: Each token's part of it; None where the task does not tell.
        metric_B: Shortfall of the frame's task metric, 0 where a frame has none; None if it was not asked for.
        output_BN: Distance of the outputs to the dense model's at each patch token, or (B, 1) where it is one of the
            whole frame; None if it was not asked for.
        output_B: Mean over the tokens.
        output_worst_B: Mean over the 20 largest.
    """

    distance_BN: Tensor
    distance_B: Tensor
    worst_B: Tensor
    loss_B: Tensor | None = None
    loss_BN: Tensor | None = None
    metric_B: Tensor | None = None
    output_BN: Tensor | None = None
    output_B: Tensor | None = None
    output_worst_B: Tensor | None = None


@dataclass(frozen=True)
class Outcome:
    """What a model made of one frame of B streams, as far as damage depends on it.

    Attributes:
        tokens_BND: Final tokens.
        loss_B: Task loss, None if it was not asked for.
        loss_BN: Each token's part of it, None where the task does not tell.
        metric_B: The task's metric of each frame, NaN where there is none; None if it was not asked for.
        outputs: What the model returns; None if their distance was not asked for.
    """

    tokens_BND: Tensor
    loss_B: Tensor | None = None
    loss_BN: Tensor | None = None
    metric_B: Tensor | None = None
    outputs: Any = None

    def of_stream(self, stream: int) -> Outcome:
        """One stream's, as a copy: a slice would keep the whole batch alive."""
        one: Outcome = map_tensors(stream_of(self, stream), torch.Tensor.clone)
        return one

    @staticmethod
    def cat(outcomes: Sequence[Outcome]) -> Outcome:
        """Those of several streams as one."""
        joined: Outcome = cat_tensors(outcomes)
        return joined

    @property
    def nbytes(self) -> int:
        """Memory of the tensors."""
        return bytes_of(self)


class DamageMeter:
    """Holds eventful outputs against the dense model's.

    Args:
        task: Task that supplies loss, metric and output distance.
        backbone: Parts of the task's model.
        loss: Whether to compute the task loss.
        metric: Whether to compute the metric of single frames.
        output: Whether to compute the distance of the outputs.

    Raises:
        ValueError: If loss or metric are asked for and the task has no labels, or the distance of the outputs and it
            does not offer one.
    """

    def __init__(
        self, task: VideoTask, backbone: Backbone, loss: bool = False, metric: bool = False, output: bool = False
    ) -> None:
        if (loss or metric) and not task.has_labels:
            raise ValueError(f"losses and metrics need labels, which task {task.name} does not have")
        if output and not offers(task, "output_distance"):
            raise ValueError(
                f"damage of kind output needs a task that offers output_distance, which task {task.name} does not"
            )
        self._task, self._backbone = task, backbone
        self._loss, self._metric, self._output = loss, metric, output

    @torch.no_grad()
    def dense(self, frame: Tensor, targets: Sequence[Target]) -> Outcome:
        """The dense model's outcome of frames (B, 3, H, W)."""
        return self.outcome(self._backbone.vit.forward_features(frame), targets)

    def outcome(self, features: Tensor, targets: Sequence[Target]) -> Outcome:
        """What final features came to; differentiable but for the metric."""
        loss_B = loss_BN = metric_B = None
        outputs = self._backbone.head(features) if self._loss or self._metric or self._output else None
        if self._loss:
            token_loss = getattr(self._task, "token_loss", None)
            loss_BN = None if token_loss is None else token_loss(outputs, targets)
            loss_B = self._task.loss(outputs, targets) if loss_BN is None else loss_BN.sum(1)
        if self._metric:
            metric_B = frame_metric(self._task, outputs, targets)
        return Outcome(as_tokens(features), loss_B, loss_BN, metric_B, outputs if self._output else None)

    def damage(self, outcome: Outcome, dense: Outcome) -> Damage:
        """How much worse an outcome is than the dense model's."""
        distance_BN = distances(outcome.tokens_BND, dense.tokens_BND)
        distance_B, worst_B = mean_and_worst(distance_BN)
        lost_B = _minus(dense.metric_B, outcome.metric_B)
        output_BN = self._output_distance(outcome, dense)
        output_B, output_worst_B = (None, None) if output_BN is None else mean_and_worst(output_BN)
        return Damage(
            distance_BN,
            distance_B,
            worst_B,
            loss_B=_minus(outcome.loss_B, dense.loss_B),
            loss_BN=_minus(outcome.loss_BN, dense.loss_BN),
            metric_B=None if lost_B is None else lost_B.nan_to_num(),
            output_BN=output_BN,
            output_B=output_B,
            output_worst_B=output_worst_B,
        )

    def _output_distance(self, outcome: Outcome, dense: Outcome) -> Tensor | None:
        if not self._output:
            return None
        distance_BN: Tensor = self._task.output_distance(outcome.outputs, dense.outputs)  # type: ignore[attr-defined]
        streams, tokens = outcome.tokens_BND.shape[:2]
        patches = tokens - self._backbone.prefix
        if tuple(distance_BN.shape) not in {(streams, patches), (streams, 1)}:
            raise ValueError(
                f"output_distance of task {self._task.name} must be ({streams}, {patches}), one value for each patch "
                f"token, or ({streams}, 1), one for the whole frame; got {tuple(distance_BN.shape)}"
            )
        return distance_BN


def frame_metric(task: VideoTask, outputs: Any, targets: Sequence[Target]) -> Tensor:
    """The task metric of each single frame (B,), NaN where a frame has none.

    A task that has a better measure of single frames than its metric over one frame offers it as a method
    `frame_metric(outputs, targets)`.
    """
    own = getattr(task, "frame_metric", None)
    if own is not None:
        return own(outputs, targets)
    values = []
    for b, target in enumerate(targets):
        metric = task.metric()
        if metric is None:
            raise ValueError(f"task {task.name} has labels, but no metric")
        metric.update("frame", stream_of(outputs, b), [target])
        values.append(metric.compute())
    return torch.tensor(values, dtype=torch.float32)


def _minus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else a - b
