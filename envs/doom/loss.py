"""The detector's training loss: which token answers for which object, and how far off it is.

Tokens whose centre lies in the inner part of a box answer for it (FCOS centre sampling, Tian et al. 2019), as
does the token that holds the box's centre; where several boxes claim a token, the smallest wins. The class
target of such a token is the IoU of its predicted box (varifocal loss, Zhang et al. 2021), so that scores
rank boxes by quality; boxes learn by generalised IoU (Rezatofighi et al. 2019) and a little L1 on their
codes.

Shape suffixes: B streams, N tokens, K objects (padded to the most of any stream), C classes; a trailing 4 is
a box.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from envs.detection.iou import paired_iou
from envs.doom.boxes import PATCH, encode, split_outputs, token_centres
from envs.task import Target

_INNER = 0.5
_RADIUS = 1.5 * PATCH
_GIOU_WEIGHT = 2.0
_CODE_WEIGHT = 0.5


def assign(boxes_BK4: Tensor, valid_BK: Tensor) -> Tensor:
    """Which object each token answers for.

    Args:
        boxes_BK4: Boxes of the objects, xyxy in pixels of the input, padded.
        valid_BK: Whether each box is real rather than padding (bool).

    Returns:
        Index of the object (B, N), -1 for tokens that answer for none.
    """
    centres_N2 = token_centres(boxes_BK4.device)
    middle_BK2 = (boxes_BK4[..., :2] + boxes_BK4[..., 2:]) / 2
    size_BK2 = boxes_BK4[..., 2:] - boxes_BK4[..., :2]
    away_BKN2 = (centres_N2 - middle_BK2.unsqueeze(2)).abs()
    reach_BK12 = (size_BK2 * _INNER / 2).clamp(max=_RADIUS).unsqueeze(2)
    inner_BKN = (away_BKN2 <= reach_BK12).all(-1)
    nearest_BK1 = away_BKN2.square().sum(-1).argmin(-1, keepdim=True)
    inner_BKN = inner_BKN.scatter(2, nearest_BK1, True) & valid_BK.unsqueeze(2)
    # A token nearest to a box's centre serves that box before any other that merely covers it.
    is_nearest_BKN = torch.zeros_like(inner_BKN).scatter(2, nearest_BK1, True)
    area_BK1 = size_BK2.prod(-1, keepdim=True)
    cost_BKN = torch.where(is_nearest_BKN, area_BK1 * 1e-6, area_BK1)
    cost_BKN = cost_BKN.masked_fill(~inner_BKN, torch.inf)
    lowest = cost_BKN.min(1)
    return lowest.indices.masked_fill(lowest.values.isinf(), -1)


def detection_loss(outputs_BNX: Tensor, targets: Sequence[Target]) -> Tensor:
    """Loss (B,) of each stream: the sum over its tokens of `token_loss`."""
    return token_loss(outputs_BNX, targets).sum(1)


def token_loss(outputs_BNX: Tensor, targets: Sequence[Target]) -> Tensor:
    """Each token's part of the loss (B, N): of its classes, and of its box if it answers for an object.

    Args:
        outputs_BNX: Raw output of the detector for each token.
        targets: Labels of each stream's frame, boxes in pixels of the detector's input.

    Raises:
        ValueError: If there is not one target for each stream.
    """
    logits_BNC, predicted_BN4 = split_outputs(outputs_BNX)
    if len(targets) != len(outputs_BNX):
        raise ValueError(f"{len(outputs_BNX)} outputs need as many targets, got {len(targets)}")
    boxes_BK4, labels_BK, valid_BK = _pad(targets, outputs_BNX.device)
    owner_BN = assign(boxes_BK4, valid_BK)
    positive_BN = owner_BN >= 0
    index_BN = owner_BN.clamp_min(0)
    target_BN4 = boxes_BK4.gather(1, index_BN.unsqueeze(-1).expand(-1, -1, 4))
    label_BN = labels_BK.gather(1, index_BN)

    iou_BN, giou_BN = paired_iou(predicted_BN4, target_BN4)
    quality_BN = iou_BN.detach().clamp(0, 1) * positive_BN
    truth_BNC = torch.zeros_like(logits_BNC).scatter(2, label_BN.unsqueeze(-1), quality_BN.unsqueeze(-1))
    score_BNC = logits_BNC.detach().sigmoid()
    weight_BNC = torch.where(truth_BNC > 0, truth_BNC, 0.75 * score_BNC.square())
    class_BN = (F.binary_cross_entropy_with_logits(logits_BNC, truth_BNC, reduction="none") * weight_BNC).sum(2)

    code_BN = F.smooth_l1_loss(outputs_BNX[..., -4:].float(), encode(target_BN4), reduction="none", beta=0.2).sum(-1)
    box_BN = _GIOU_WEIGHT * (1 - giou_BN) + _CODE_WEIGHT * code_BN
    objects_B1 = positive_BN.sum(1, keepdim=True).clamp_min(1)
    return (class_BN + torch.where(positive_BN, box_BN, 0.0)) / objects_B1


def _pad(targets: Sequence[Target], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (B, K, 4), labels (B, K) and which are real (B, K); K is at least 1."""
    most = max(1, *(len(target["labels"]) for target in targets))
    boxes = torch.zeros(len(targets), most, 4)
    labels = torch.zeros(len(targets), most, dtype=torch.long)
    valid = torch.zeros(len(targets), most, dtype=torch.bool)
    for k, target in enumerate(targets):
        count = len(target["labels"])
        boxes[k, :count], labels[k, :count], valid[k, :count] = target["boxes"], target["labels"], True
    return boxes.to(device), labels.to(device), valid.to(device)
