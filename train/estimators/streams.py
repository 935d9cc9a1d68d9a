"""Streams of frames for training: B endless streams, each walking through clip after clip.

A stream depends on its own index and the seed alone, so that several processes which share the streams among them see
what one process would see.

Shape suffixes: B streams, H height, W width, C channels.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from envs.episodes import log_uniform
from envs.task import Clip, Target
from eventful import StreamState
from eventful.stream_checks import begin_anew


@dataclass(frozen=True)
class Batch:
    """One frame of each stream.

    Attributes:
        frames_BHWC: uint8 RGB frames.
        targets: Labels of each stream's frame; empty for tasks without labels.
        first_B: Streams at the start of a walk through a clip: this frame is a flush.
        budget_B: Each stream's target share of the dense MACs, constant within a clip.
    """

    frames_BHWC: Tensor
    targets: list[Target]
    first_B: Tensor
    budget_B: Tensor


class Stream:
    """One endless stream: random clips, entered at a random frame, walked to their ends.

    Args:
        clips: Clips to choose from; all frames of one size.
        index: Index of the stream among all streams.
        seed: Seed of the run (and of the part of the run).
        budgets: Range of the budgets, sampled log-uniformly per clip.
    """

    def __init__(self, clips: Sequence[Clip], index: int, seed: str, budgets: tuple[float, float]) -> None:
        self._clips, self._budgets = clips, budgets
        self._random = random.Random(f"{seed}/{index}")
        self.noise = torch.Generator().manual_seed(self._random.getrandbits(62))
        self._clip, self._frame, self._first, self._budget = self._enter()

    def __next__(self) -> tuple[Clip, int, bool, float]:
        """The clip, the frame in it, whether a new clip has just begun, and the budget."""
        if self._frame == len(self._clip):
            self._clip, self._frame, self._first, self._budget = self._enter()
        frame, first = self._frame, self._first
        self._frame, self._first = frame + 1, False
        return self._clip, frame, first, self._budget

    def _enter(self) -> tuple[Clip, int, bool, float]:
        clip = self._random.choice(self._clips)
        # At least half of a clip is walked: policies must see tokens that have long been left alone.
        frame = self._random.randrange(max(len(clip) // 2, 1))
        return clip, frame, True, log_uniform(*self._budgets, self._random.random())


@dataclass(frozen=True)
class StreamSource:
    """Where a process's streams come from.

    Attributes:
        clips: Clips to choose from.
        indices: Indices of this process's streams among all streams.
        budgets: Range of the budgets, sampled log-uniformly per clip.

    Raises:
        ValueError: If there are no clips, or their frames differ in size.
    """

    clips: Sequence[Clip]
    indices: Sequence[int]
    budgets: tuple[float, float]

    def __post_init__(self) -> None:
        if not self.clips:
            raise ValueError("there are no clips to train on")
        sizes = {tuple(clip.frames_THWC.shape[1:]) for clip in self.clips}
        if len(sizes) > 1:
            raise ValueError(f"clips of different frame sizes cannot be batched: {sorted(sizes)}")

    def batch(self, seed: str) -> StreamBatch:
        """The streams, at their beginnings."""
        return StreamBatch([Stream(self.clips, index, seed, self.budgets) for index in self.indices])


class StreamBatch:
    """B streams in step."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = streams

    @property
    def noise(self) -> list[torch.Generator]:
        """A random generator for each stream."""
        return [stream.noise for stream in self._streams]

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next frame of every stream."""
        picked = [next(stream) for stream in self._streams]
        return Batch(
            frames_BHWC=torch.stack([clip.frames_THWC[frame] for clip, frame, _, _ in picked]),
            targets=[clip.targets[frame] for clip, frame, _, _ in picked if clip.targets],
            first_B=torch.tensor([first for _, _, first, _ in picked]),
            budget_B=torch.tensor([budget for _, _, _, budget in picked]),
        )


def begin(state: StreamState | None, batch: Batch) -> StreamState | None:
    """Lets the streams whose clip begins with this frame begin anew."""
    if state is not None:
        begin_anew(state, batch.first_B.nonzero().flatten().tolist())
    return state
