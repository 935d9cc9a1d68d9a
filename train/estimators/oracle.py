"""Warm start: regress the policy's scores on the gradient oracle's.

The policy's scores are fitted to the benefits b of all updates of a frame (`envs.benefit`) by listwise cross-entropy,
with target p_i = max(b_i, 0) / sum_j max(b_j, 0) against softmax(kappa * score), on states that the policy itself
leaves behind. Each step also learns again from earlier frames (`train.estimators.lessons`).

Shape suffixes: B streams, N tokens, G gates.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

import eventful
from envs.benefit import update_benefits
from envs.damage import Objective
from envs.task import VideoTask
from eventful import StreamState
from eventful.checks.ranges import check_ranges, setting
from eventful.console.output import progress
from eventful.tensor_tree import cat_tensors
from policies import GateObservation, Selection, TrainablePolicy
from train import distributed
from train.estimators.lessons import Lesson, LessonBook
from train.estimators.protocol import differentiable_meter
from train.estimators.streams import Batch, StreamBatch, begin


@dataclass(frozen=True)
class OracleOptions:
    """Settings of the warm start.

    Attributes:
        frames: Number of frames of all streams, one optimiser step each.
        lr: Peak learning rate of Adam; cosine decay to zero.
        replays: Number of earlier frames that each step learns from again, next to the new one.
        memory: Memory for frames that are kept for it, MiB for each stream; the oldest make room.

    Raises:
        ValueError: If a value is out of range.
    """

    frames: int = setting(200, "[1, 1e7]", also="oracle_frames")
    lr: float = setting(3e-3, "(0, 10]", also="oracle_lr")
    replays: int = setting(7, "[0, 1000]")
    memory: float = setting(512.0, "[0, 1e6]")

    def __post_init__(self) -> None:
        check_ranges(self, "oracle.")


class OracleWarmStart:
    """Fits a policy to the gradient oracle.

    Args:
        task: Task whose `preprocess` makes model inputs, and which scores outputs against labels.
        model: Eventful model around the task's model.
        policy: Policy to be fitted.
        objective: Damage whose gradient is the oracle.
        options: Number of frames, learning rate, what is learnt again.
        seed: Of the choice of what is learnt again.
    """

    def __init__(
        self,
        task: VideoTask,
        model: eventful.EventfulModel,
        policy: TrainablePolicy,
        objective: Objective,
        options: OracleOptions,
        seed: int = 0,
    ) -> None:
        self._task, self._model, self._policy, self._objective = task, model, policy, objective
        self._options = options
        self._meter = differentiable_meter(task, model, objective)
        self._book = LessonBook(options.memory * 2**20, seed)
        self._log_kappa = torch.zeros((), requires_grad=True, device=next(policy.parameters()).device)
        self._optimizer = torch.optim.Adam([*policy.parameters(), self._log_kappa], lr=options.lr)
        self._scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, options.frames)

    def fit(self, streams: StreamBatch, show: bool = True) -> float:
        """Walks the streams for some frames, one optimiser step each; returns the last tenth's mean loss."""
        frames = self._options.frames
        state: StreamState | None = None
        losses: list[float] = []
        for batch in progress(islice(streams, frames), "oracle", show, total=frames, unit="frame"):
            state, loss = self._frame(batch, begin(state, batch))
            losses += [] if loss is None else [loss]
        recent = losses[-max(len(losses) // 10, 1) :]
        return sum(recent) / max(len(recent), 1)

    def _frame(self, batch: Batch, state: StreamState | None) -> tuple[StreamState, float | None]:
        device = next(self._model.parameters()).device
        frame, budget_B = self._task.preprocess(batch.frames_BHWC.to(device)), batch.budget_B.to(device)
        loss = None if state is None else self._learn(self._lesson(frame, batch, state, budget_B))

        def decide(observation: GateObservation) -> Selection:
            with torch.no_grad():
                return Selection.where(self._policy.score(observation, budget_B) > 0, observation)

        _, state = eventful.drive(self._model.decisions(frame, state), decide)
        return state, loss

    def _lesson(self, frame: Tensor, batch: Batch, state: StreamState, budget_B: Tensor) -> Lesson | None:
        """None where all streams are at a flush."""
        seen: list[GateObservation] = []
        benefit_GBN = update_benefits(
            self._model, self._meter, self._objective, frame, batch.targets, state, see=seen.append
        )
        return Lesson.of(seen, benefit_GBN, budget_B, batch.first_B) if seen else None

    def _learn(self, new: Lesson | None) -> float | None:
        """One optimiser step, in which all processes take part, also those whose streams are all at a flush."""
        lessons = self._book.draw(self._options.replays) + ([] if new is None else [new])
        self._book.add(new)
        local, counted = torch.zeros(()), torch.zeros(())
        if lessons:
            local, counted = self._loss(cat_tensors(lessons))
        count = float(distributed.mean(counted.cpu()))
        if not count:
            return None
        self._optimizer.zero_grad(set_to_none=True)
        if local.requires_grad:
            (local / count).backward()
        distributed.average_gradients([*self._policy.parameters(), self._log_kappa])
        self._optimizer.step()
        self._scheduler.step()
        return float(distributed.mean(local.detach().cpu() / count))

    def _loss(self, lesson: Lesson) -> tuple[Tensor, Tensor]:
        """Sum of the streams' cross-entropies, and how many streams count."""
        scores = [self._policy.score(observation, lesson.budget_B) for observation in lesson.observations]
        score_BN = torch.stack(scores, 1).flatten(1)
        benefit_BN = lesson.benefit_BGN.flatten(1)
        target_BN = benefit_BN / benefit_BN.sum(1, keepdim=True).clamp(min=1e-12)
        log_p_BN = (self._log_kappa.exp() * score_BN).log_softmax(1)
        counted_B = lesson.counts_B.float()
        return (-(target_BN * log_p_BN).sum(1) * counted_B).sum(), counted_B.sum()
