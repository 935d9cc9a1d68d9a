"""Training on windows of 10 x 10 tokens around objects: a third of a frame's cost, and most of what it teaches.

A window keeps its place: its tokens get the position embeddings of where it lies in the frame, and its outputs are put
back among the 300 of the frame, where tokens outside the window say "nothing" and so add nothing to the loss.

Shape suffixes: B windows, W tokens of a window, N tokens of a frame, D channels, X outputs of a token.
"""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from envs.doom.boxes import GRID, PATCH, TOKENS
from envs.doom.labels import MIN_SIDE
from envs.task import Target
from train.recipe.views import cut

SIDE = 10
"""Rows and columns of a window, in tokens."""

_ANYWHERE = 0.2
_NOTHING = -20.0


def cut_windows(
    frames_BHWC: Tensor, targets: list[Target], generator: torch.Generator
) -> tuple[Tensor, list[Target], Tensor]:
    """One window of each frame, near a random object of it or (one in five) anywhere.

    Args:
        frames_BHWC: uint8 RGB frames of 240 x 320.
        targets: Labels of each frame, boxes in pixels of the frame.
        generator: Random generator of the choices.

    Returns:
        Pixels (B, 160, 160, 3), targets with boxes clipped to the window but in pixels of the frame, and the tokens'
        numbers (B, W). Boxes of which less than 40 % is left are gone.
    """
    pixels, tokens = [], []
    labels: list[Target] = []
    grid_N = torch.arange(TOKENS).view(GRID)
    for frame_HWC, target in zip(frames_BHWC, targets, strict=True):
        row, column = _place(target, generator)
        top, left, side = row * PATCH, column * PATCH, SIDE * PATCH
        pixels.append(frame_HWC[top : top + side, left : left + side])
        tokens.append(grid_N[row : row + SIDE, column : column + SIDE].reshape(-1))
        seen = cut(target, (left, top, side, side), MIN_SIDE)
        low = torch.tensor([left, top], dtype=torch.float32).repeat(2)
        labels.append({**seen, "boxes": seen["boxes"] + low})
    return torch.stack(pixels), labels, torch.stack(tokens)


def _place(target: Target, generator: torch.Generator) -> tuple[int, int]:
    """First row and column of a window."""
    spare = (GRID[0] - SIDE + 1, GRID[1] - SIDE + 1)
    chance = torch.rand(4, generator=generator).tolist()
    if not len(target["labels"]) or chance[0] < _ANYWHERE:
        return int(chance[1] * spare[0]), int(chance[2] * spare[1])
    box = target["boxes"][int(chance[3] * len(target["labels"]))]
    centre = ((box[:2] + box[2:]) / (2 * PATCH)).tolist()
    column, row = (int(middle - SIDE * (0.2 + 0.6 * u)) for middle, u in zip(centre, chance[1:3], strict=True))
    return min(max(row, 0), spare[0] - 1), min(max(column, 0), spare[1] - 1)


def window_outputs(vit: VisionTransformer, pixels_BCHW: Tensor, tokens_BW: Tensor) -> Tensor:
    """Outputs (B, N, X) of the detector for windows, as if of whole frames."""
    x_BWD = vit.patch_embed.proj(pixels_BCHW).flatten(2).transpose(1, 2)
    x_BWD = x_BWD + vit.get_parameter("pos_embed")[0][tokens_BW]
    outputs_BWX = vit.head(vit.norm(vit.blocks(x_BWD)))
    outputs_BNX = outputs_BWX.new_zeros(len(tokens_BW), TOKENS, outputs_BWX.shape[-1])
    outputs_BNX[..., :-4] = _NOTHING
    return outputs_BNX.scatter(1, tokens_BW.unsqueeze(-1).expand_as(outputs_BWX), outputs_BWX)
