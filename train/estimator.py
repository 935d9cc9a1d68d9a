"""What the two estimators have in common: they turn a window of frames into a gradient for the policy.

Shape suffixes: B streams, T frames, G gates, N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from eventful import StreamState
from policies import GateObservation
from train.streams import Batch


@dataclass
class WindowResult:
    """Outcome of a window.

    Attributes:
        state: After the last frame, without gradient history.
        stats: Means over streams and frames, flushes left out; the same on all processes.
        rates_TG: Share of tokens selected at each gate in each frame, first stream.
        masks_TN: The first stream's first gate's selections, for heat maps.
        ages: Ages of all tokens at their selection or at the window's end, for a histogram.
    """

    state: StreamState
    stats: dict[str, float]
    rates_TG: Tensor
    masks_TN: Tensor
    ages: Tensor


class Estimator(Protocol):
    """Accumulates `.grad` of the policy's parameters over one window of frames."""

    def window(
        self, batches: Sequence[Batch], state: StreamState | None, noise: Sequence[torch.Generator]
    ) -> WindowResult:
        """Runs T frames of B streams from a state, and backpropagates.

        Args:
            batches: T frames of B streams.
            state: Of the streams before the first of these frames; None if all of them begin.
            noise: A generator for each stream, for decisions that are drawn.
        """


@dataclass
class WindowRecord:
    """Collects what was selected during a window, for the logs."""

    masks: list[Tensor] = field(default_factory=list)
    rates: list[list[Tensor]] = field(default_factory=list)
    ages: list[Tensor] = field(default_factory=list)

    def decision(self, observation: GateObservation, mask_BN: Tensor) -> None:
        """Notes one decision."""
        hard_BN = mask_BN.detach() > 0.5
        if observation.gate == 0:
            self.rates.append([])
            self.masks.append(hard_BN[0].cpu())
            self.ages.append(observation.age_BN.float().cpu().flatten())
        self.rates[-1].append(hard_BN[0].float().mean().cpu())

    def result(self, state: StreamState, stats: dict[str, float], tokens: int, gates: int) -> WindowResult:
        """Everything together; a window that was nothing but flushes has no rates."""
        rates_TG = torch.tensor([[float(r) for r in frame] for frame in self.rates]).reshape(-1, gates)
        masks_TN = torch.stack(self.masks) if self.masks else torch.zeros(0, tokens, dtype=torch.bool)
        ages = torch.cat(self.ages) if self.ages else torch.zeros(0)
        return WindowResult(state, stats, rates_TG, masks_TN, ages)


def begin(state: StreamState | None, batch: Batch) -> StreamState | None:
    """Marks the streams whose clip begins with this frame, so that they are flushed."""
    if state is not None:
        state.flush_B = batch.first_B.to(state.flush_B.device)
    return state
