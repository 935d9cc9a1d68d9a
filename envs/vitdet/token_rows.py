"""A detector whose outputs say at each token, too, what the region proposal network sees there.

Detections alone do not tell which token of the backbone is to blame for what changed. The network's logits do: each
belongs to a place.

Shape suffixes: B streams, N tokens, P anchors of all levels, J candidates of a token, L classes, K detections,
D channels of the backbone; Y and X rows and columns, y and x places of a token along an axis; a trailing 4 is a box.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from envs.vitdet.boxes import ASPECT_RATIOS, decode
from envs.vitdet.detector import DetectionHead
from envs.vitdet.proposals import Predictions
from envs.vitdet.pyramid import STRIDES
from envs.vitdet.roi_heads import LIMIT

_PATCH = 16


class TokenRows(nn.Module):
    """A detection head that adds one row for each token to its detections.

    Args:
        head: The detection head, not copied.
    """

    def __init__(self, head: DetectionHead) -> None:
        super().__init__()
        self.detection = head

    def forward(self, features_BDYX: Tensor) -> Tensor:
        """Detections and tokens (B, 100 + N, 6); see `split_rows`.

        The row of a token is the proposal with the highest logit of all anchors, of all levels, that are placed in it:
        box (not clipped), probability to be an object, 0.
        """
        grid = (features_BDYX.shape[-2], features_BDYX.shape[-1])
        size = (grid[0] * _PATCH, grid[1] * _PATCH)
        head = self.detection
        levels = head.pyramid(features_BDYX)
        predictions = head.proposal_generator.predict(levels)
        proposed = head.proposal_generator.select(predictions, size)
        found_BK6 = head.roi_heads(levels, [boxes_K4 for boxes_K4, _ in proposed], size)
        return torch.cat([found_BK6, _best(predictions, grid)], 1)


def split_rows(outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `TokenRows` returns, as detections (B, 100, 6), boxes of tokens (B, N, 4) and their objectness (B, N)."""
    return outputs[:, :LIMIT], outputs[:, LIMIT:, :4], outputs[:, LIMIT:, 4]


def class_map(found_BK6: Tensor, classes: int, grid: tuple[int, int]) -> Tensor:
    """Scores of the classes at each token (B, N, L): of a class the best of its boxes that the token's centre is in.

    Args:
        found_BK6: Rows of box, score and class; those with score 0 are empty.
        classes: L.
        grid: (rows, columns) of tokens.
    """
    y, x = (_PATCH * (torch.arange(side, device=found_BK6.device) + 0.5) for side in grid)
    left, top, right, bottom, score_BK, label_BK = found_BK6.unbind(-1)
    in_y_BKy = (top[..., None] <= y) & (y < bottom[..., None])
    in_x_BKx = (left[..., None] <= x) & (x < right[..., None])
    inside_BKN = (in_y_BKy[..., :, None] & in_x_BKx[..., None, :]).flatten(2)
    value_BKN = score_BK[..., None] * inside_BKN
    index_BKN = label_BK.long()[..., None].expand_as(value_BKN)
    empty_BLN = value_BKN.new_zeros(len(found_BK6), classes, value_BKN.shape[-1])
    return empty_BLN.scatter_reduce(1, index_BKN, value_BKN, "amax").transpose(1, 2)


def _best(predictions: Predictions, grid: tuple[int, int]) -> Tensor:
    """The best proposal of each token (B, N, 6)."""
    logits_BP, deltas_BP4 = torch.cat(list(predictions.logits), 1), torch.cat(list(predictions.deltas), 1)
    candidates_NJ = _candidates(predictions.sizes, grid).to(logits_BP.device)
    best_BN, which_BN = logits_BP[:, candidates_NJ].max(-1)
    index_BN = candidates_NJ.expand(len(logits_BP), -1, -1).gather(2, which_BN[..., None])[..., 0]
    deltas_BN4 = deltas_BP4.gather(1, index_BN[..., None].expand(-1, -1, 4))
    anchors_BN4 = torch.cat(list(predictions.anchors))[index_BN]
    boxes = decode(deltas_BN4.flatten(0, 1), anchors_BN4.flatten(0, 1), (1.0, 1.0, 1.0, 1.0)).view_as(deltas_BN4)
    return torch.cat([boxes, best_BN.sigmoid()[..., None], torch.zeros_like(best_BN)[..., None]], -1)


def _candidates(sizes: Sequence[tuple[int, int]], grid: tuple[int, int]) -> Tensor:
    """For each token the anchors (N, J) that are placed in it, or in the coarser place that it lies in."""
    kinds, first, found = torch.arange(len(ASPECT_RATIOS)), 0, []
    for (rows, columns), stride in zip(sizes, STRIDES, strict=True):
        y, x = _places(grid[0], rows, stride), _places(grid[1], columns, stride)
        place_YXyx = y[:, None, :, None] * columns + x[None, :, None, :]
        found.append((first + len(kinds) * place_YXyx[..., None] + kinds).flatten(2).flatten(0, 1))
        first += rows * columns * len(kinds)
    return torch.cat(found, 1)


def _places(tokens: int, places: int, stride: int) -> Tensor:
    """Along one axis, the places of a level (tokens, places of a token) that belong to each token."""
    token = torch.arange(tokens)[:, None]
    if stride <= _PATCH:
        each = _PATCH // stride
        return token * each + torch.arange(each)
    # An odd number of tokens leaves one without a place of its own.
    return (token // (stride // _PATCH)).clamp(max=places - 1)
