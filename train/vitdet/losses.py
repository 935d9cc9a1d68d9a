"""What a ViTDet detector is trained with: the losses of Faster R-CNN, by torchvision's code.

Ren et al., "Faster R-CNN" (2015), section 3.1.2; Girshick, "Fast R-CNN" (2015), section 2.3. Anchors and boxes are
matched, sampled and compared by the methods of torchvision's networks, whose own layers are left out.

Shape suffixes: B streams, K boxes, P anchors, L classes, D channels of the backbone; Y and X rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork

from envs.task import Target
from envs.vitdet.detector import PATCH, DetectionHead
from envs.vitdet.proposals import Predictions
from envs.vitdet.roi_heads import SINGLE_WEIGHTS, SingleStage
from eventful.errors import UserError

_OBJECT, _NOTHING = 0.7, 0.3
"""Overlap from which an anchor is of an object, and below which it is of none."""

_IN_BOX = 0.5
_ANCHORS_OF_OBJECTS, _BOXES_OF_OBJECTS = 0.5, 0.25


class DetectionLosses:
    """The losses of a detector with one second stage.

    Args:
        anchors: Anchors of a frame that are compared, half of them of objects if there are so many.
        boxes: Proposals of a frame that are compared, at most a quarter of them of objects.
    """

    def __init__(self, anchors: int = 256, boxes: int = 512) -> None:
        self._first = RegionProposalNetwork(
            cast(Any, nn.Identity()), nn.Identity(), _OBJECT, _NOTHING, anchors, _ANCHORS_OF_OBJECTS, {}, {}, _OBJECT
        )
        matching = (_IN_BOX, _IN_BOX, boxes, _BOXES_OF_OBJECTS, SINGLE_WEIGHTS)
        self._second = RoIHeads(None, None, None, *matching, 0.0, 0.0, 0)

    def __call__(self, head: DetectionHead, features_BDYX: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Means over what is compared: `objectness`, `proposals`, `classes`, `boxes`.

        Which anchors and boxes are compared is drawn from torch's default generator.

        Args:
            head: Everything after the backbone.
            features_BDYX: Last map of the backbone.
            targets: Objects of each frame, boxes in pixels of the canvas.

        Raises:
            UserError: If the head has several second stages.
        """
        if not isinstance(head.roi_heads, SingleStage):
            raise UserError(f"detectors with {type(head.roi_heads).__name__} cannot be trained; SingleStage can")
        levels = head.pyramid(features_BDYX)
        predictions = head.proposal_generator.predict(levels)
        objectness, proposals = self._of_proposals(predictions, targets)
        with torch.no_grad():
            size = (features_BDYX.shape[-2] * PATCH, features_BDYX.shape[-1] * PATCH)
            proposed = [boxes_K4 for boxes_K4, _ in head.proposal_generator.select(predictions, size)]
        # torchvision's background is class 0, ours the last one.
        shifted = [{"boxes": target["boxes"], "labels": target["labels"] + 1} for target in targets]
        boxes, _, labels, goals = self._second.select_training_samples(proposed, shifted)
        logits_KL, deltas = head.roi_heads.logits(levels, boxes)
        logits_KL = torch.cat([logits_KL[:, -1:], logits_KL[:, :-1]], 1)
        deltas = torch.cat([torch.zeros_like(deltas[:, :4]), deltas], 1)
        classes, refined = fastrcnn_loss(logits_KL, deltas, labels, goals)
        return {"objectness": objectness, "proposals": proposals, "classes": classes, "boxes": refined}

    def _of_proposals(self, predictions: Predictions, targets: Sequence[Target]) -> tuple[Tensor, Tensor]:
        anchors = [torch.cat(list(predictions.anchors))] * len(targets)
        labels, matched = self._first.assign_targets_to_anchors(anchors, [dict(target) for target in targets])
        goals = self._first.box_coder.encode(matched, anchors)
        logits_BP, deltas_BP4 = torch.cat(list(predictions.logits), 1), torch.cat(list(predictions.deltas), 1)
        return self._first.compute_loss(logits_BP.flatten(), deltas_BP4.flatten(0, 1), labels, list(goals))
