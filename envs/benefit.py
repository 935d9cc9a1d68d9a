"""The gradient oracle: what each update of a frame would be worth, had one known the dense model's outputs.

With every mask entry at 1/2, minus the gradient of the frame's damage with respect to the mask is the benefit of
updating each token: all tokens in one forward and one backward pass. It is of first order and of this frame alone, so
no bound on what can be reached; but it knows what no policy knows.

Shape suffixes: B streams, N tokens, G gates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import eventful
from envs.damage import DamageMeter, Objective
from envs.task import Target
from eventful import StreamState
from policies import GateObservation, Selection


def update_benefits(
    model: eventful.EventfulModel,
    meter: DamageMeter,
    objective: Objective,
    frame: Tensor,
    targets: Sequence[Target],
    state: StreamState,
    see: Callable[[GateObservation], None] = lambda observation: None,
) -> Tensor:
    """Benefit of updating each token at each gate (G, B, N), in units of the objective; G is 0 on a flush.

    Args:
        model: Eventful model.
        meter: Measures damage with gradients.
        objective: What counts as damage; without a part that has no gradient.
        frame: The next frame (B, 3, H, W).
        targets: Labels of each stream's frame; empty for objectives that need none.
        state: After the preceding frame; it stays as it is.
        see: Is shown the observation of every gate.
    """
    masks: list[Tensor] = []

    def half(observation: GateObservation) -> Selection:
        see(observation)
        masks.append(torch.full_like(observation.error_BN, 0.5, dtype=torch.float32).requires_grad_())
        return Selection(mask_BN=masks[-1])

    features, _ = eventful.drive(model.decisions(frame, state, masked=True), half)
    if not masks:
        return frame.new_zeros(0, frame.shape[0], 0)
    damage = meter.damage(meter.outcome(features, targets), meter.dense(frame, targets))
    return -torch.stack(torch.autograd.grad(objective.of_frame(damage).sum(), masks))
