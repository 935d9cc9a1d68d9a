"""What is in the proposed boxes: Faster R-CNN's second stage, alone or three times in a row.

Ren et al., "Faster R-CNN" (2015), with a convolutional head; Cai and Vasconcelos, "Cascade R-CNN" (2018).

Shape suffixes: B streams, K boxes, L classes, C channels, F channels of what is said of a box, S side of a
pooled map; a trailing 4 is a box.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.ops import batched_nms

from envs.vitdet.boxes import clip, decode, pool
from envs.vitdet.pyramid import CHANNELS

Weights = tuple[float, float, float, float]

LIMIT = 100
"""Most detections of a frame."""

HIDDEN = 1024
"""Channels of what the published models say of a box."""

_SIDE = 7
_MIN_SCORE = 0.05
_MAX_OVERLAP = 0.5

SINGLE_WEIGHTS: Weights = (10.0, 10.0, 5.0, 5.0)
CASCADE_WEIGHTS: tuple[Weights, ...] = (SINGLE_WEIGHTS, (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
"""What deltas are divided by, in each stage."""


class NormedConv(nn.Conv2d):
    """A 3x3 convolution without bias, a layer norm over the channels of each pixel, ReLU.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, bias=False)
        self.norm = LayerNorm2d(channels, eps=1e-6)

    def forward(self, x_KCSS: Tensor) -> Tensor:
        """Maps to maps of the same shape."""
        return F.relu(self.norm(super().forward(x_KCSS)))


class BoxHead(nn.Module):
    """Four convolutions and a linear layer.

    Args:
        channels: C.
        hidden: Channels of what it returns, F.
    """

    def __init__(self, channels: int = CHANNELS, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4 = (NormedConv(channels) for _ in range(4))
        self.fc1 = nn.Linear(channels * _SIDE**2, hidden)

    def forward(self, x_KCSS: Tensor) -> Tensor:
        """Pooled maps to vectors (K, F)."""
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x_KCSS = conv(x_KCSS)
        return F.relu(self.fc1(x_KCSS.flatten(1)))


class BoxPredictor(nn.Module):
    """Scores of classes and deltas of boxes.

    Args:
        classes: L.
        boxes: Boxes for each proposal: one for each class, or one for all.
        hidden: Channels of the vectors, F.
    """

    def __init__(self, classes: int, boxes: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.cls_score = nn.Linear(hidden, classes + 1)
        self.bbox_pred = nn.Linear(hidden, 4 * boxes)

    def forward(self, x_KF: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors to probabilities (K, L + 1), background last, and deltas (K, 4 or 4 * L)."""
        logits_KL, deltas = self.logits(x_KF)
        return logits_KL.softmax(-1), deltas

    def logits(self, x_KF: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, with logits (K, L + 1) instead of probabilities."""
        return self.cls_score(x_KF).float(), self.bbox_pred(x_KF).float()


class ROIHeads(nn.Module, abc.ABC):
    """From proposals to detections."""

    def forward(self, levels: Sequence[Tensor], boxes: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Detections (B, 100, 6); see `detections`.

        Args:
            levels: Maps (B, C, Y, X) of the feature pyramid, finest first.
            boxes: Proposals of each stream (K, 4).
            size: (height, width) of the canvas, which boxes are clipped to.
        """
        counts = [len(one) for one in boxes]
        found, scores_KL = self.classify(levels, boxes, size)
        streams = zip(found.split(counts), scores_KL.split(counts), strict=True)
        return torch.stack([_suppress(clip(one, size), scores) for one, scores in streams])

    @abc.abstractmethod
    def classify(
        self, levels: Sequence[Tensor], boxes: Sequence[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Boxes (K, 1 or L, 4) of all streams, one after the other, and scores (K, L); see `forward` for arguments."""


class SingleStage(ROIHeads):
    """One stage, with boxes of their own for each class (the VID models).

    Args:
        classes: L.
        channels: C.
        hidden: Channels of what is said of a box.
    """

    def __init__(self, classes: int, channels: int = CHANNELS, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.box_head = BoxHead(channels, hidden)
        self.box_predictor = BoxPredictor(classes, classes, hidden)

    def classify(
        self, levels: Sequence[Tensor], boxes: Sequence[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """See `ROIHeads.classify`."""
        logits_KL, deltas = self.logits(levels, boxes)
        scores_KL = logits_KL.softmax(-1)[:, :-1]
        return decode(deltas, torch.cat(list(boxes)), SINGLE_WEIGHTS).unflatten(1, (-1, 4)), scores_KL

    def logits(self, levels: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits of the classes (K, L + 1), background last, and deltas (K, 4 * L) of boxes of all streams."""
        return self.box_predictor.logits(self.box_head(pool(levels, boxes, _SIDE)))


class Cascade(ROIHeads):
    """Three stages, each of which refines the boxes of the one before; their scores are averaged (the COCO models).

    Args:
        classes: L.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.box_head = nn.ModuleList(BoxHead() for _ in CASCADE_WEIGHTS)
        self.box_predictor = nn.ModuleList(BoxPredictor(classes, boxes=1) for _ in CASCADE_WEIGHTS)

    def classify(
        self, levels: Sequence[Tensor], boxes: Sequence[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """See `ROIHeads.classify`."""
        counts, scores = [len(one) for one in boxes], []
        boxes_K4 = torch.cat(list(boxes))
        for head, predictor, weights in zip(self.box_head, self.box_predictor, CASCADE_WEIGHTS, strict=True):
            boxes_K4 = clip(boxes_K4, size)
            probabilities, deltas = predictor(head(pool(levels, boxes_K4.split(counts), _SIDE)))
            boxes_K4 = decode(deltas, boxes_K4, weights)
            scores.append(probabilities)
        return boxes_K4[:, None], torch.stack(scores).mean(0)[:, :-1]


def _suppress(boxes: Tensor, scores_KL: Tensor) -> Tensor:
    """The detections (100, 6) of one stream: suppression within each class, best first, zeros after the last."""
    index_K, label_K = (scores_KL > _MIN_SCORE).nonzero(as_tuple=True)
    score_K = scores_KL[index_K, label_K]
    box_K4 = boxes[index_K, label_K if boxes.shape[1] > 1 else 0]
    kept = batched_nms(box_K4, score_K, label_K, _MAX_OVERLAP)[:LIMIT]
    found = torch.cat([box_K4[kept], score_K[kept, None], label_K[kept, None].float()], 1)
    return F.pad(found, (0, 0, 0, LIMIT - len(found)))


def detections(outputs_BK6: Tensor) -> list[dict[str, Tensor]]:
    """What a detector returns, as plain detections of each stream, best first.

    Args:
        outputs_BK6: Rows of box (xyxy, pixels of the canvas), score and class; those with score 0 are empty.

    Returns:
        For each stream `boxes` (K, 4), `scores` (K,) and `labels` (K,), int64.
    """
    streams = [rows_K6[rows_K6[:, 4] > 0] for rows_K6 in outputs_BK6]
    return [{"boxes": rows[:, :4], "scores": rows[:, 4], "labels": rows[:, 5].long()} for rows in streams]
