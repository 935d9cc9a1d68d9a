"""Lessons of the oracle: what a policy saw of a frame, and what each update would have been worth.

Frames that taught something are kept and learnt again, mixed with new ones: playing a frame and asking the oracle
costs some hundred times as much as a step on what is known of it.

Shape suffixes: B streams, N tokens, G gates.
"""

from __future__ import annotations

import dataclasses
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policies import GateObservation


@dataclass(frozen=True)
class Lesson:
    """A frame of B streams.

    Attributes:
        observations: What each of the G gates showed; a copy, as the model goes on editing its buffers.
        benefit_GBN: Benefit of each update (`envs.benefit.update_benefits`).
        budget_B: Target share of each stream.
        counts_B: Streams that are to be learnt from: no flush, and some update is worth something.
    """

    observations: list[GateObservation]
    benefit_GBN: Tensor
    budget_B: Tensor
    counts_B: Tensor

    @classmethod
    def of(
        cls, observations: Sequence[GateObservation], benefit_GBN: Tensor, budget_B: Tensor, first_B: Tensor
    ) -> Lesson:
        """Of a frame that the streams `first_B` begin with."""
        benefit_GBN = benefit_GBN.clamp(min=0)
        counts_B = ~first_B.to(benefit_GBN.device) & (benefit_GBN.sum((0, 2)) > 0)
        return cls([_copied(observation) for observation in observations], benefit_GBN, budget_B, counts_B)

    @classmethod
    def joined(cls, lessons: Sequence[Lesson]) -> Lesson:
        """All streams of several lessons as one."""
        gates = zip(*(lesson.observations for lesson in lessons), strict=True)
        return cls(
            [_joined(of_a_gate) for of_a_gate in gates],
            torch.cat([lesson.benefit_GBN for lesson in lessons], 1),
            torch.cat([lesson.budget_B for lesson in lessons]),
            torch.cat([lesson.counts_B for lesson in lessons]),
        )

    @property
    def nbytes(self) -> int:
        """Memory of the tensors, for each stream."""
        tensors = [self.benefit_GBN]
        for observation in self.observations:
            values = vars(observation).values()
            tensors += [x for x in [*values, *observation.memory.values()] if isinstance(x, Tensor)]
        return sum(x.numel() * x.element_size() for x in tensors) // len(self.budget_B)


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
        self._size = self._size if lesson is None else lesson.nbytes
        while len(self._kept) * self._size > self._memory:
            self._kept.popleft()

    def draw(self, count: int) -> list[Lesson]:
        """Some of those that are kept, without repetition; all where there are no more."""
        drawn = self._random.sample(list(self._kept), min(count, len(self._kept)))
        return [lesson for lesson in drawn if lesson is not None]


def _copied(observation: GateObservation) -> GateObservation:
    values = {field.name: _copy(getattr(observation, field.name)) for field in dataclasses.fields(observation)}
    return GateObservation(**values)


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return {key: _copy(x) for key, x in value.items()} if isinstance(value, dict) else value


def _joined(observations: Sequence[GateObservation]) -> GateObservation:
    values = {
        field.name: _join([getattr(observation, field.name) for observation in observations])
        for field in dataclasses.fields(GateObservation)
    }
    return GateObservation(**values)


def _join(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(values))
    return {key: _join([value[key] for value in values]) for key in first} if isinstance(first, dict) else first
