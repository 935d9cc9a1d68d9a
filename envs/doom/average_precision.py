"""Average precision at IoU 0.5 by COCO's rules (Lin et al. 2014), quick enough for the bootstrap.

Predictions are matched to objects once, frame by frame, when they arrive. A resample of clips then only
changes how often each match counts: with detections sorted by score once, its precision and recall are
weighted running sums. The result equals `torchmetrics.detection.MeanAveragePrecision`'s `map_50`.

Shape suffixes: B streams, K objects of a frame, P predictions of a frame (of all frames: L), U clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.doom.boxes import detections
from envs.task import Target

_IOU = 0.5
# Rounded to single precision, as in torchmetrics: it decides whether a recall of exactly 0.7 reaches 0.7.
_RECALLS = torch.linspace(0.0, 1.0, 101).double().numpy()


def match(
    boxes_P4: NDArray, labels_P: NDArray, scores_P: NDArray, true_K4: NDArray, true_labels_K: NDArray
) -> NDArray[np.bool_]:
    """Which predictions of a frame are hits.

    In the order of their scores, each takes the free object of its class with the highest IoU of at least
    0.5.

    Args:
        boxes_P4: Predicted boxes, xyxy in pixels.
        labels_P: Class of each predicted box.
        scores_P: Score of each predicted box.
        true_K4: Boxes of the objects, xyxy in pixels.
        true_labels_K: Class of each object.

    Returns:
        Hits (P,), in the order of the arguments.
    """
    hits_P = np.zeros(len(scores_P), bool)
    if not len(scores_P) or not len(true_K4):
        return hits_P
    overlap_PK = _iou(boxes_P4, true_K4)
    overlap_PK[labels_P[:, None] != true_labels_K[None]] = 0.0
    for p in np.argsort(-scores_P, kind="stable"):
        best = int(overlap_PK[p].argmax())
        if overlap_PK[p, best] >= _IOU:
            hits_P[p] = True
            overlap_PK[:, best] = 0.0
    return hits_P


def average_precision(hits_L: NDArray, weights_L: NDArray, objects: float) -> float:
    """AP of one class: precision, made monotone, averaged over 101 recalls.

    Args:
        hits_L: Whether each prediction is a hit, best score first.
        weights_L: How often each prediction counts.
        objects: Number of objects of the class, each counted as often as its clip.
    """
    true_L = np.cumsum(weights_L * hits_L)
    all_L = np.cumsum(weights_L)
    precision_L = true_L / np.maximum(all_L, 1e-9)
    precision_L = np.maximum.accumulate(precision_L[::-1])[::-1]
    at = np.searchsorted(true_L / objects, _RECALLS, side="left")
    return float(np.append(precision_L, 0.0)[at].mean())


class MeanAveragePrecision50:
    """mAP50 over clips; implements `envs.task.Metric` for the outputs of the detector.

    Args:
        classes: Number of classes.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._clips: dict[str, int] = {}
        self._rows: list[tuple[int, NDArray, NDArray, NDArray]] = []
        self._objects: list[NDArray] = []
        self._sorted: list[tuple[NDArray, NDArray]] | None = None

    def update(self, clip: str, outputs: Any, targets: Sequence[Target]) -> None:
        """Adds outputs (B, N, classes + 4) of frames of a clip and their labels (boxes in input pixels)."""
        if len(targets) != len(outputs):
            raise ValueError(f"{len(outputs)} outputs need as many targets, got {len(targets)}")
        for found, target in zip(detections(outputs), targets, strict=True):
            self.add(clip, found, target)

    def add(self, clip: str, found: Target, target: Target) -> None:
        """Adds the detections (`boxes`, `scores`, `labels`) of one frame and its labels."""
        boxes, scores, labels, true, true_labels = (
            value.detach().cpu().numpy()
            for value in (
                found["boxes"],
                found["scores"],
                found["labels"],
                target["boxes"],
                target["labels"],
            )
        )
        unit = self._clips.setdefault(clip, len(self._clips))
        if unit == len(self._objects):
            self._objects.append(np.zeros(self.classes))
        self._objects[unit] += np.bincount(true_labels, minlength=self.classes)
        self._rows.append((unit, scores, labels, match(boxes, labels, scores, true, true_labels)))
        self._sorted = None

    def compute(self, clips: Sequence[str] | None = None) -> float:
        """mAP50 over the named clips, with repetition, or over all; NaN if they show no object.

        Raises:
            ValueError: If a clip was never added.
        """
        return float(np.mean(list(self.by_class(clips).values()) or [np.nan]))

    def by_class(self, clips: Sequence[str] | None = None) -> dict[int, float]:
        """AP50 of each class that has an object in the clips."""
        weights_U = self._weights(clips)
        objects_C = weights_U @ np.array(self._objects) if self._objects else np.zeros(self.classes)
        scores = {}
        for k, (units_L, hits_L) in enumerate(self._by_score()):
            if objects_C[k] > 0:
                scores[k] = average_precision(hits_L, weights_U[units_L], objects_C[k])
        return scores

    def _weights(self, clips: Sequence[str] | None) -> NDArray:
        if clips is None:
            return np.ones(len(self._clips))
        unknown = sorted(set(clips) - set(self._clips))
        if unknown:
            raise ValueError(f"no outputs were added for clip {unknown[0]!r}")
        return np.bincount([self._clips[clip] for clip in clips], minlength=len(self._clips)).astype(float)

    def _by_score(self) -> list[tuple[NDArray, NDArray]]:
        """For each class, clip index and hit of every prediction, best first."""
        if self._sorted is None:
            units = [np.full(len(scores), unit) for unit, scores, _, _ in self._rows]
            unit_L = np.concatenate([*units, np.zeros(0, int)])
            score_L = np.concatenate([*(row[1] for row in self._rows), np.zeros(0)])
            label_L = np.concatenate([*(row[2] for row in self._rows), np.zeros(0, int)])
            hit_L = np.concatenate([*(row[3] for row in self._rows), np.zeros(0, bool)])
            order_L = np.argsort(-score_L, kind="stable")
            self._sorted = []
            for k in range(self.classes):
                chosen = order_L[label_L[order_L] == k]
                self._sorted.append((unit_L[chosen], hit_L[chosen]))
        return self._sorted


def frame_ap(outputs_BNX: Tensor, targets: Sequence[Target]) -> Tensor:
    """Average precision at IoU 0.5 of each single frame (B,), a reward for REINFORCE.

    All classes share one precision-recall curve, so that a false alarm of any class costs. A frame without
    objects scores 1 minus the highest score of its detections.
    """
    values = []
    for found, target in zip(detections(outputs_BNX), targets, strict=True):
        boxes, scores, labels = (found[key].cpu().numpy() for key in ("boxes", "scores", "labels"))
        true, true_labels = target["boxes"].cpu().numpy(), target["labels"].cpu().numpy()
        if not len(true):
            values.append(1.0 - float(scores.max(initial=0.0)))
            continue
        hits = match(boxes, labels, scores, true, true_labels)[np.argsort(-scores, kind="stable")]
        values.append(average_precision(hits, np.ones(len(hits)), len(true)))
    return torch.tensor(values, dtype=torch.float32, device=outputs_BNX.device)


def _iou(a_P4: NDArray, b_K4: NDArray) -> NDArray:
    area_P = np.prod(a_P4[:, 2:] - a_P4[:, :2], axis=1)
    area_K = np.prod(b_K4[:, 2:] - b_K4[:, :2], axis=1)
    low_PK2 = np.maximum(a_P4[:, None, :2], b_K4[None, :, :2])
    high_PK2 = np.minimum(a_P4[:, None, 2:], b_K4[None, :, 2:])
    shared_PK = np.prod(np.clip(high_PK2 - low_PK2, 0, None), axis=2)
    return shared_PK / np.maximum(area_P[:, None] + area_K[None] - shared_PK, 1e-9)
