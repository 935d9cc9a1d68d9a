"""Which ways of running a model, and which policies, have fixed shapes; all others are refused.

Shape suffixes: B streams, N tokens, M selected tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from eventful.errors import UserError
from eventful.model import EventfulModel
from eventful.state import StreamState
from policies.protocol import GateObservation, Selection

STEPS = 2
"""Frames after the flush on which a policy is watched."""


@dataclass(frozen=True)
class Watched:
    """What was seen of a flush and two steps.

    Attributes:
        states: The states after each of them.
        varies: Whether the policy selects another number of tokens in each frame.
    """

    states: list[StreamState]
    varies: bool


def watch(model: EventfulModel, frame: Tensor) -> Watched:
    """Runs a flush and two steps, each on another picture.

    Args:
        model: Made by `eventful.wrap`.
        frame: (B, 3, H, W).

    Raises:
        UserError: Naming the option whose work differs from frame to frame, or a policy that remembers more and more.
    """
    options = model.options
    if options.granularity == "gate" and options.attention == "exact":
        raise UserError(
            'attention="exact" computes as many rows afresh as need it, which differs from frame to frame; for fixed '
            'shapes, wrap with attention="recompute" or "paper", or with granularity="frame"'
        )
    fixed = all(block.attention.fixed_shapes for block in model.backbone.blocks(model.layout(frame).grid))
    if options.granularity == "frame" and not fixed:
        raise UserError(
            "attention in windows is computed for those windows that hold a selected token, and their number differs "
            'from frame to frame; for fixed shapes, wrap with granularity="gate", attention="recompute"'
        )
    if options.scene_cut is not None:
        raise UserError(
            "scene_cut decides at each frame whether it is a flush; for fixed shapes, wrap without it, and flush "
            "where the picture is cut"
        )
    if options.motion_compensation:
        raise UserError(
            "motion_compensation moves the state by as much as the picture has moved, which differs from frame to "
            "frame; for fixed shapes, wrap without it"
        )
    if options.compile is not None:
        raise UserError("layers that torch.compile has made cannot be exported; for fixed shapes, wrap without compile")
    seen: list[Selection] = []

    def noting(observation: GateObservation) -> Selection:
        selection = model.policy.select(observation)
        seen.append(selection)
        return selection

    states: list[StreamState] = []
    for k in range(1 + STEPS):
        before = states[-1].clone() if states else None
        states.append(model.step_with_features(moved(frame, k), before, noting)[2])
    if states[1].memory.keys() != states[0].memory.keys():
        raise UserError(f"policy {model.policy.name} remembers more from frame to frame, and the state is fixed here")
    return Watched(states, not all(selection.ranked for selection in seen))


def refuse_what_varies(model: EventfulModel, frame: Tensor) -> list[StreamState]:
    """The states after a flush and two steps, each on another picture.

    Raises:
        UserError: Naming the option or the policy whose work differs from frame to frame.
    """
    watched = watch(model, frame)
    if watched.varies:
        raise UserError(
            f"policy {model.policy.name} selects as many tokens as it sees fit, and shapes are fixed here; "
            "take one that selects the r best: TopR, TopFraction, SaliencyTopR, or a trained policy with one "
            'budget and select_by="top"'
        )
    return watched.states


def moved(frame: Tensor, by: int) -> Tensor:
    """Another picture of the same pixels: (B, 3, H, W), shifted by eighths of its width, around the border."""
    return frame.roll(by * max(frame.shape[-1] // 8, 1), -1)
