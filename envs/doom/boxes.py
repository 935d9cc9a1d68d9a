"""Boxes of the dense detector: coding relative to tokens, decoding with suppression, and flips.

Every token predicts one box by the offset of its centre from the token's centre in units of the patch size,
and by its log size in units of two patches: `cx = x_n + 16 dx`, `w = 32 exp(dw)`; likewise for y and h.

Shape suffixes: B streams, N tokens, C classes, K objects; a trailing 4 is a box.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torchvision.ops import batched_nms

INPUT_SIZE = (240, 320)
"""Height and width of the detector's input."""

PATCH = 16
GRID = (INPUT_SIZE[0] // PATCH, INPUT_SIZE[1] // PATCH)
TOKENS = GRID[0] * GRID[1]

_SIZE_UNIT = 2.0 * PATCH
_LOG_SIZE_LIMITS = (-3.0, 3.0)


@cache
def _centres(device: torch.device) -> Tensor:
    y, x = torch.meshgrid(torch.arange(GRID[0]), torch.arange(GRID[1]), indexing="ij")
    return ((torch.stack((x, y), -1).reshape(-1, 2) + 0.5) * PATCH).to(device)


def token_centres(device: torch.device | str = "cpu") -> Tensor:
    """Centres (N, 2), x before y, of the tokens in pixels of the input."""
    return _centres(torch.device(device)).clone()


def encode(boxes_4: Tensor) -> Tensor:
    """What each token (second to last dimension) must output for its xyxy box; inverse of `decode`."""
    centre = (boxes_4[..., :2] + boxes_4[..., 2:]) / 2
    size = (boxes_4[..., 2:] - boxes_4[..., :2]).clamp_min(1e-3)
    offset = (centre - token_centres(boxes_4.device)) / PATCH
    return torch.cat((offset, (size / _SIZE_UNIT).log()), -1)


def decode(codes_4: Tensor) -> Tensor:
    """xyxy boxes (..., N, 4) in pixels of the input from the tokens' outputs (..., N, 4)."""
    centre = token_centres(codes_4.device) + codes_4[..., :2] * PATCH
    half = codes_4[..., 2:].clamp(*_LOG_SIZE_LIMITS).exp() * (_SIZE_UNIT / 2)
    return torch.cat((centre - half, centre + half), -1)


def split_outputs(outputs_BNX: Tensor) -> tuple[Tensor, Tensor]:
    """Class logits (B, N, C) and xyxy boxes (B, N, 4) of the head's output: logits, then coded box.

    Raises:
        ValueError: If the output does not have a row for each token.
    """
    if outputs_BNX.dim() != 3 or outputs_BNX.shape[1] != TOKENS or outputs_BNX.shape[2] <= 4:
        raise ValueError(f"detector output has shape {tuple(outputs_BNX.shape)}; expected (B, {TOKENS}, classes + 4)")
    outputs_BNX = outputs_BNX.float()
    return outputs_BNX[..., :-4], decode(outputs_BNX[..., -4:])


@torch.no_grad()
def detections(
    outputs_BNX: Tensor, min_score: float = 0.02, max_overlap: float = 0.55, limit: int = 50
) -> list[dict[str, Tensor]]:
    """Final detections of each stream, best first.

    Args:
        outputs_BNX: Raw output of the detector for each token.
        min_score: Lowest score of a candidate that is kept.
        max_overlap: Largest IoU of two boxes of one class; beyond it the one with the lower score is dropped.
        limit: Largest number of detections of one frame.

    Returns:
        For each stream `boxes` (K, 4) xyxy in pixels of the input, `scores` (K,) and `labels` (K,).
    """
    logits_BNC, boxes_BN4 = split_outputs(outputs_BNX)
    scores_BNC = logits_BNC.sigmoid()
    height, width = INPUT_SIZE
    boxes_BN4 = boxes_BN4.clamp(min=0)
    boxes_BN4 = torch.minimum(boxes_BN4, boxes_BN4.new_tensor((width, height, width, height)))
    results = []
    for scores_NC, boxes_N4 in zip(scores_BNC, boxes_BN4, strict=True):
        token, label = (scores_NC > min_score).nonzero(as_tuple=True)
        scores, boxes = scores_NC[token, label], boxes_N4[token]
        kept = batched_nms(boxes, scores, label, max_overlap)[:limit]
        results.append({"boxes": boxes[kept], "scores": scores[kept], "labels": label[kept]})
    return results
