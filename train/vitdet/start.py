"""A detector's backbone that starts from a plain vision transformer.

Li et al. (2022), section 4: a ViTDet's backbone is a plain one, pretrained; windows need no weights, and relative
positions are added.

Shape suffixes: N tokens, D channels; Y and X rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from envs.backbones import read_weights
from envs.vitdet.canvas import MEAN, STD
from eventful.checks.ranges import check_ranges, setting
from eventful.errors import UserError

_PIXELS = ("patch_embed.proj", "patch_embed.proj.0")
"""The first convolution, of one or of a stack."""

_ADDED = ("rel_pos_h", "rel_pos_w")


@dataclass
class PlainStart:
    """A plain vision transformer to start the backbone from.

    Attributes:
        weights: Weights file of a timm vision transformer; none if not given.
        grid: Rows and columns of its tokens; a square if not given.
        mean: Mean of the pixels, 0 to 255, that it was trained with, for each colour.
        std: Standard deviation of these pixels.
    """

    weights: str | None = None
    grid: list[int] | None = setting(None, "[1, 4096]")
    mean: list[float] = setting(list(MEAN), "[0, 255]")
    std: list[float] = setting(list(STD), "(0, 255]")


def start_backbone(vit: nn.Module, start: PlainStart) -> None:
    """Fills blocks, patches and positions of a backbone; does nothing where no weights are given.

    Where its frames were oblong, they lie at the top left of the canvas, as a detector's do. Relative positions, which
    a plain transformer has not, stay as they are.

    Args:
        vit: Detector of `envs.vitdet.detector`.
        start: The plain transformer.

    Raises:
        UserError: If a setting cannot be, or the file does not fit.
        OSError: If the file is missing.
    """
    _check(start)
    if start.weights is None:
        return
    found, own = read_weights(start.weights), vit.state_dict()
    state = {name: value for name, value in found.items() if name.startswith(("blocks.", "patch_embed.proj."))}
    if "pos_embed" in found:
        side = own["patch_embed.pos_embed"].shape[1]
        state["patch_embed.pos_embed"] = _square(found["pos_embed"], start.grid, side)
    wanted = {name: own[name] for name in own if not name.startswith("head.") and not name.endswith(_ADDED)}
    _refuse_other(state, wanted, start.weights)
    pixels = next(name for name in _PIXELS if f"{name}.weight" in state)
    keys = [f"{pixels}.weight", f"{pixels}.bias"]
    state |= dict(zip(keys, _for_canvas(state[keys[0]], state[keys[1]], start), strict=True))
    vit.load_state_dict(state, strict=False)


def _refuse_other(state: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> None:
    for name, value in state.items():
        here = tuple(own[name].shape) if name in own else "missing"
        if here != tuple(value.shape):
            raise UserError(f"{source} does not fit the backbone: {name} is {tuple(value.shape)}, here {here}")
    lacking = [name for name in own if name not in state]
    if lacking:
        raise UserError(f"{source} does not fit the backbone: it has no {lacking[0]}")


def _for_canvas(weight: Tensor, bias: Tensor, start: PlainStart) -> tuple[Tensor, Tensor]:
    """The first convolution for pixels that the canvas has normalised: the same outputs."""
    theirs, ours = (torch.tensor(x, dtype=torch.float64) for x in ([start.mean, start.std], [MEAN, STD]))
    gain_C, shift_C = ours[1] / theirs[1], (ours[0] - theirs[0]) / theirs[1]
    exact = weight.double()
    shifted = bias.double() + (exact * shift_C[:, None, None]).sum((1, 2, 3))
    return (exact * gain_C[:, None, None]).to(weight.dtype), shifted.to(bias.dtype)


def _square(pos_embed_1ND: Tensor, grid: Sequence[int] | None, side: int) -> Tensor:
    """Positions of a grid as a table (1, side, side, D): made square by repeating what is last, then resized."""
    N = pos_embed_1ND.shape[1]
    rows, columns = grid or (math.isqrt(N),) * 2
    if rows * columns > N:
        raise UserError(f"backbone.grid={[rows, columns]} has more than the {N} positions of the weights")
    # Those before the grid belong to class and register tokens, which a detector has not.
    x_1DYX = pos_embed_1ND[:, N - rows * columns :].unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
    longest = max(rows, columns)
    x_1DYX = F.pad(x_1DYX, (0, longest - columns, 0, longest - rows), mode="replicate")
    if longest != side:
        x_1DYX = F.interpolate(x_1DYX, (side, side), mode="bicubic", align_corners=False)
    return x_1DYX.permute(0, 2, 3, 1)


def _check(start: PlainStart) -> None:
    if start.grid is not None and len(start.grid) != 2:
        raise UserError(f"backbone.grid must be rows and columns, got {start.grid}")
    for name, values in (("mean", start.mean), ("std", start.std)):
        if len(values) != 3:
            raise UserError(f"backbone.{name} must have a number for each of three colours, got {values}")
    check_ranges(start, "backbone.")
