"""Lessons of the oracle: what a policy saw of a frame, and what each update would have been worth.

Frames that taught something are kept and learnt again, mixed with new ones: playing a frame and asking the oracle
costs some hundred times as much as a step on what is known of it.

Shape suffixes: B streams, N tokens, G gates.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from eventful.tensor_tree import bytes_of, map_tensors
from policies import GateObservation


@dataclass(frozen=True)
class Lesson:
    """A frame of B streams; a tree of tensors with the streams first, as states are.

    Attributes:
        observations: What each of the G gates showed.
        benefit_BGN: Benefit of each update (`envs.benefit.update_benefits`); nothing for one that does harm.
        budget_B: Target share of each stream.
        counts_B: Streams that are to be learnt from: no flush, and some update is worth something.
    """

    observations: list[GateObservation]
    benefit_BGN: Tensor
    budget_B: Tensor
    counts_B: Tensor

    @classmethod
    def of(
        cls, observations: Sequence[GateObservation], benefit_GBN: Tensor, budget_B: Tensor, first_B: Tensor
    ) -> Lesson:
        """Of a frame that the streams `first_B` begin with; a copy, as the model goes on editing its buffers."""
        benefit_BGN = benefit_GBN.transpose(0, 1).clamp(min=0)
        counts_B = ~first_B.to(benefit_BGN.device) & (benefit_BGN.sum((1, 2)) > 0)
        lesson = cls(list(observations), benefit_BGN, budget_B, counts_B)
        return map_tensors(lesson, lambda tensor: tensor.detach().clone())


class LessonBook:
    """The last lessons, as many as fit.

    Args:
        memory: Bytes for each stream.
        seed: Of what is drawn. Processes that share the streams among them give the same, and draw the same frames.
    """

    def __init__(self, memory: float, seed: int = 0) -> None:
        self._memory = memory
        self._random = random.Random(seed)
        self._kept: deque[Lesson | None] = deque()
        self._size = 0

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, lesson: Lesson | None) -> None:
        """Keeps a lesson, in place of the oldest where there is no room.

        None for a frame that taught nothing: it counts, as another process may have learnt from it.
        """
        self._kept.append(lesson)
        self._size = self._size if lesson is None else bytes_of(lesson) // len(lesson.budget_B)
        while len(self._kept) * self._size > self._memory:
            self._kept.popleft()

    def draw(self, count: int) -> list[Lesson]:
        """Some of those that are kept, without repetition; all where there are no more."""
        drawn = self._random.sample(list(self._kept), min(count, len(self._kept)))
        return [lesson for lesson in drawn if lesson is not None]
