"""Average precision at IoU 0.5, quick enough for the bootstrap and for 200,000 frames.

Detections are matched to objects once. A resample of clips then only changes how often each match counts: with
detections sorted by score once, its precision and recall are weighted running sums. The details in which libraries
differ are in `envs.detection.rules`.

Shape suffixes: K objects, L detections of a class, P detections, U clips, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.detection.matching import Boxes, match
from envs.detection.rules import TORCHMETRICS, Rule
from envs.task import Target

_Arrays = dict[str, NDArray]

_FRAMES_AT_ONCE = 1024
"""Frames that are matched together; bounds the memory that waiting boxes take."""


def average_precision(hits_L: NDArray, weights_L: NDArray, objects: float, rule: Rule) -> float:
    """AP of one class: precision, made monotone, averaged over 101 recalls.

    Args:
        hits_L: Whether each detection is a hit, best score first.
        weights_L: How often each detection counts.
        objects: Number of objects of the class, each counted as often as its clip.
        rule: How recalls are rounded.
    """
    true_L = np.cumsum(weights_L * hits_L)
    all_L = np.cumsum(weights_L)
    precision_L = true_L / np.maximum(all_L, 1e-9)
    precision_L = np.maximum.accumulate(precision_L[::-1])[::-1]
    kind = rule.recalls.dtype
    recall_L = true_L.astype(kind) / np.asarray(objects, kind)
    at = np.searchsorted(recall_L, rule.recalls, side="left")
    return float(np.append(precision_L, 0.0)[at].mean())


class MeanAveragePrecision50:
    """mAP50 over clips; implements `envs.task.Metric`.

    Args:
        classes: Number of classes.
        detections: What turns a model's outputs into the detections of each frame; None if they are that already.
        rule: Which library's details are followed.
    """

    def __init__(
        self,
        classes: int,
        detections: Callable[[Any], Sequence[Target]] | None = None,
        rule: Rule = TORCHMETRICS,
    ) -> None:
        self.classes = classes
        self.rule = rule
        self._detections = detections
        self._clips: dict[str, int] = {}
        self._objects: list[NDArray] = []
        self._waiting: list[tuple[int, _Arrays, _Arrays]] = []
        self._rows: list[tuple[NDArray, ...]] = []
        self._sorted: list[tuple[NDArray, NDArray]] | None = None

    def update(self, clip: str, outputs: Any, targets: Sequence[Target]) -> None:
        """Adds outputs of frames of a clip and their labels; boxes of both in the same pixels.

        Raises:
            ValueError: If there is not one target for each output, or a label is none of the classes.
        """
        if len(targets) != len(outputs):
            raise ValueError(f"{len(outputs)} outputs need as many targets, got {len(targets)}")
        found = outputs if self._detections is None else self._detections(outputs)
        for frame, target in zip(found, targets, strict=True):
            self.add(clip, frame, target)

    def add(self, clip: str, found: Target, target: Target) -> None:
        """Adds the detections (`boxes`, `scores`, `labels`) of one frame and its labels (`boxes`, `labels`).

        Raises:
            ValueError: If a label is none of the classes.
        """
        frame, true = _arrays(found), _arrays(target)
        labels = np.concatenate((frame["labels"], true["labels"]))
        strange = labels[(labels < 0) | (labels >= self.classes)]
        if len(strange):
            raise ValueError(f"clip {clip!r} has label {strange[0]}; there are classes 0 to {self.classes - 1}")
        unit = self._clips.setdefault(clip, len(self._clips))
        if unit == len(self._objects):
            self._objects.append(np.zeros(self.classes))
        self._objects[unit] += np.bincount(true["labels"], minlength=self.classes)
        self._waiting.append((unit, frame, true))
        self._sorted = None
        if len(self._waiting) >= _FRAMES_AT_ONCE:
            self._match()

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
                scores[k] = average_precision(hits_L, weights_U[units_L], objects_C[k], self.rule)
        return scores

    def _weights(self, clips: Sequence[str] | None) -> NDArray:
        if clips is None:
            return np.ones(len(self._clips))
        unknown = sorted(set(clips) - set(self._clips))
        if unknown:
            raise ValueError(f"no outputs were added for clip {unknown[0]!r}")
        return np.bincount([self._clips[clip] for clip in clips], minlength=len(self._clips)).astype(float)

    def _match(self) -> None:
        """Matches the frames that wait."""
        unit_T, found, true = zip(*self._waiting, strict=True)
        boxes, scores_P = _join(found), np.concatenate([frame["scores"] for frame in found])
        hits_P, counts_P = match(boxes, scores_P, _join(true), self.classes, self.rule)
        columns = (np.array(unit_T, np.int32)[boxes.frames_N], scores_P, boxes.labels_N.astype(np.int32), hits_P)
        self._rows.append(tuple(column[counts_P] for column in columns))
        self._waiting = []

    def _by_score(self) -> list[tuple[NDArray, NDArray]]:
        """For each class, clip index and hit of every detection, best first."""
        if self._waiting:
            self._match()
        if self._sorted is None:
            if not self._rows:
                return []
            unit_P, score_P, label_P, hit_P = (np.concatenate(part) for part in zip(*self._rows, strict=True))
            order_P = np.lexsort((-score_P, label_P))
            ends = np.searchsorted(label_P[order_P], np.arange(self.classes + 1))
            chosen = [order_P[ends[k] : ends[k + 1]] for k in range(self.classes)]
            self._sorted = [(unit_P[part], hit_P[part]) for part in chosen]
        return self._sorted


def frame_ap(found: Sequence[Target], targets: Sequence[Target], classes: int, rule: Rule = TORCHMETRICS) -> Tensor:
    """Average precision at IoU 0.5 of each single frame (B,), a reward for REINFORCE.

    All classes share one precision-recall curve, so that a false alarm of any class costs. A frame without
    objects scores 1 minus the highest score of its detections.

    Args:
        found: Detections of each frame.
        targets: Labels of each frame.
        classes: Number of classes.
        rule: Which library's details are followed.
    """
    frames = [_arrays(frame) for frame in found]
    boxes, scores_P = _join(frames), np.concatenate([frame["scores"] for frame in frames])
    hits_P, counts_P = match(boxes, scores_P, _join([_arrays(target) for target in targets]), classes, rule)
    values = []
    for b, target in enumerate(targets):
        mine = np.flatnonzero((boxes.frames_N == b) & counts_P)
        if not len(target["labels"]):
            values.append(1.0 - float(scores_P[mine].max(initial=0.0)))
            continue
        hits = hits_P[mine[np.argsort(-scores_P[mine], kind="stable")]]
        values.append(average_precision(hits, np.ones(len(hits)), len(target["labels"]), rule))
    return torch.tensor(values, dtype=torch.float32)


def _arrays(frame: Target) -> _Arrays:
    """As arrays of their own; a frame without boxes may have labels of any type and boxes of shape (0,)."""
    arrays = {key: frame[key].detach().cpu().numpy() for key in ("boxes", "labels", "scores") if key in frame}
    arrays["boxes"] = arrays["boxes"].reshape(-1, 4)
    arrays["labels"] = arrays["labels"].astype(np.int64)
    return arrays


def _join(frames: Sequence[_Arrays]) -> Boxes:
    """The boxes of frames, one after another."""
    numbers = np.repeat(np.arange(len(frames)), [len(frame["labels"]) for frame in frames])
    boxes, labels = (np.concatenate([frame[key] for frame in frames]) for key in ("boxes", "labels"))
    return Boxes(boxes, labels, numbers)
