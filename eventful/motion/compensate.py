"""What a stream remembers of each place, moved along with the picture.

With one decision per frame, a token that is not selected is read as it was: its keys and values by the selected ones,
its output by the head. When the camera turns, what it says belongs to a place beside it. So before a frame is decided,
keys, values, outputs, references, ages and saliency are moved by the motion of the picture as a whole, as video codecs
do before they code the rest, and as MotionDeltaCNN does for convolutions (Parger et al., ICCV 2023). Between tokens
they are interpolated linearly, row by row and column by column.

At the border that the picture moves away from, what was there stays: no token is without a value, and its error says
that it is wrong.

Shape suffixes: B streams, N tokens, P prefix tokens, D channels, Y rows, X columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eventful.motion.estimate import global_motion, motion_macs, small_picture
from eventful.rows import Counts
from eventful.state import StreamState
from eventful.tensor_tree import map_tensors
from policies.protocol import Layout


def follow_motion(state: StreamState, frame: Tensor, layout: Layout, blank_ND: Tensor) -> Counts:
    """Moves what a state remembers to where it is in this frame, and notes the frame's picture for the next one.

    Args:
        state: State of the streams; tensors that move are replaced, none is edited. Streams whose next frame is a
            flush stay as they are.
        frame: (B, 3, H, W).
        layout: Layout of the model.
        blank_ND: What the embedding adds to each place, the position: references move without it.

    Returns:
        MACs of each stream.
    """
    now_BYX = small_picture(frame.detach(), layout.grid)
    before_BYX, state.picture_BYX = state.picture_BYX, now_BYX
    if before_BYX is None or state.frame_gate is None:
        state.motion_B2 = now_BYX.new_zeros(len(now_BYX), 2)
        return np.zeros(len(now_BYX))
    state.motion_B2 = global_motion(now_BYX, before_BYX).masked_fill(state.flush_B[:, None], 0.0)
    moving_B2 = (state.motion_B2 != 0).cpu().numpy()
    for axis in np.flatnonzero(moving_B2.any(0)):
        _move(state, Shift.along(int(axis), state.motion_B2[:, axis], layout), blank_ND)
    held = layout.tokens * layout.dim * (2 * len(state.blocks) + 2)
    return motion_macs(layout.grid) + moving_B2.sum(1) * float(held)


@dataclass(frozen=True)
class Shift:
    """A motion along one axis: what comes to a place lies between two tokens.

    Attributes:
        near_BN: One of them for each place; prefix tokens stay.
        far_BN: The other.
        part_B: Where between the two, from 0 to 1.
    """

    near_BN: Tensor
    far_BN: Tensor
    part_B: Tensor

    @classmethod
    def along(cls, axis: int, motion_B: Tensor, layout: Layout) -> Shift:
        """By so many tokens down the rows (axis 0) or along the columns (axis 1)."""
        whole_B = motion_B.floor()
        near, far = (_sources(axis, (whole_B + step).long(), layout) for step in (0, 1))
        return cls(near, far, motion_B - whole_B)

    def between(self, x: Tensor) -> Tensor:
        """What is remembered of each token (B, N, ...) after the motion, interpolated."""
        part = self.part_B.to(x.dtype).reshape(-1, *[1] * (x.dim() - 1))
        return torch.lerp(_taken(x, self.near_BN), _taken(x, self.far_BN), part)

    def nearest(self, x: Tensor) -> Tensor:
        """The same, of the nearest token."""
        return _taken(x, torch.where(self.part_B[:, None] < 0.5, self.near_BN, self.far_BN))


def _sources(axis: int, motion_B: Tensor, layout: Layout) -> Tensor:
    """The token that comes to each place (B, N) when everything moves by whole tokens along an axis."""
    B, device = len(motion_B), motion_B.device
    places = [torch.arange(size, device=device).expand(B, -1) for size in layout.grid]
    places[axis] = (places[axis] - motion_B[:, None]).clamp(0, layout.grid[axis] - 1)
    rows_BY, columns_BX = places
    patches_BN = (rows_BY[:, :, None] * layout.grid[1] + columns_BX[:, None]).flatten(1) + layout.prefix
    prefix_BP = torch.arange(layout.prefix, device=device).expand(B, -1)
    return torch.cat([prefix_BP, patches_BN], 1)


def _taken(x: Tensor, index_BN: Tensor) -> Tensor:
    if len(x) == 1:
        return x.index_select(1, index_BN[0])
    return x[torch.arange(len(x), device=x.device)[:, None], index_BN]


def _move(state: StreamState, shift: Shift, blank_ND: Tensor) -> None:
    gate = state.frame_gate
    if gate is not None:
        blank_BND = blank_ND.to(gate.reference_BND).expand_as(gate.reference_BND)
        # Exactly nothing where nothing moves.
        gate.reference_BND = shift.between(gate.reference_BND) + (blank_BND - shift.between(blank_BND))
        gate.stamp_BN = shift.nearest(gate.stamp_BN)
    for block in state.blocks:
        block.attention = map_tensors(block.attention, shift.between)
    for name in ("features_BND", "saliency_BN", "saliency_before_BN"):
        held = getattr(state, name)
        if held is not None:
            setattr(state, name, shift.between(held))
