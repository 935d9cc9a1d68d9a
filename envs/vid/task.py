"""ImageNet VID, or videos with boxes of your own, and a ViTDet detector.

The consumer is the detector itself: the region proposal network, which sees every token, and the detections that come
of it. Boxes are compared on the canvas, as published.

Shape suffixes: B streams, N tokens, K objects or detections, L classes, H height, W width; a trailing 4 is a box.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from envs.detection import PUBLISHED, MeanAveragePrecision50, Rule, frame_ap
from envs.detection.iou import paired_iou
from envs.output_distance import detection_distance
from envs.task import Clip, Target, freeze
from envs.vid.clips import clip_of
from envs.vid.labelled import LabelledVideos, Layout, class_list
from envs.vid.sequences import Empty
from envs.vitdet.canvas import Canvas
from envs.vitdet.detector import DetectionHead, vitdet_vid
from envs.vitdet.roi_heads import detections
from envs.vitdet.token_rows import TokenRows, class_map, split_rows
from envs.vitdet.weights import facts_of
from eventful.errors import UserError
from eventful.families.checks import patch_grid

MIN_FRAMES = 2
"""A sequence of one frame is its flush: there is nothing to decide in it."""


class VidDetection:
    """The task; implements `envs.task.VideoTask`.

    Args:
        root: Folder of the videos; only `clips` needs it.
        layout: `official` (ILSVRC2015), `published` (the archive of Eventful Transformers) or `coco` (videos of your
            own; `<split>.json` in the folder).
        splits: Names that the splits have in the set, where they are others, such as `{"test": "val"}`.
        classes: Names of the classes, in the order of their labels, as annotations call them; if None, what the weights
            file says, else those of ImageNet VID.
        empty: Whether frames without objects are kept, or dropped.
        step: Largest step from one frame number to the next of the same sequence.
        frame_size: [height, width] of the frames: sequences of others are left out. Training needs frames of one size.
        model: A detector of `envs.vitdet.detector`, which is copied; built from the following options if None.
        canvas: Side of the square canvas in pixels; if None, what the weights file says, else 672.
        weights: Weights file, as `python -m envs.convert` or `python -m train.vitdet` writes it; random weights if
            None.
        proposals: Most proposals of a frame; if None, what the weights file says, else 300.
        architecture: What differs from ViTDet-B, as in `envs.vitdet.detector.vitdet_vid`; if None, what the weights
            file says, else nothing.
        min_score: Lowest score of what `predictions` returns.

    Raises:
        UserError: If an option, or the weights, cannot be used; the message says why.
        OSError: If the file of the weights is missing.
    """

    name = "vid"
    metric_name = "mAP50"
    clip_options = ("root", "layout", "splits", "empty", "step", "frame_size")
    has_labels = True

    def __init__(
        self,
        root: str | Path | None = None,
        layout: Layout = "official",
        splits: Mapping[str, str] | None = None,
        classes: Sequence[str] | None = None,
        empty: Empty = "keep",
        step: int = 1,
        frame_size: Sequence[int] | None = None,
        model: nn.Module | None = None,
        canvas: int | None = None,
        weights: str | Path | None = None,
        proposals: int | None = None,
        architecture: Mapping[str, Any] | None = None,
        min_score: float = 0.3,
    ) -> None:
        facts = facts_of(weights)
        canvas = facts.canvas if canvas is None else canvas
        known = class_list(facts.classes if classes is None else classes)
        self.class_names: Sequence[str] = known.names
        self._videos = None if root is None else LabelledVideos(Path(root), layout, known, empty, step)
        self._splits, self._frame_size = dict(splits or {}), None if frame_size is None else tuple(frame_size)
        self._canvas, self._min_score = Canvas(canvas), min_score
        if model is None:
            proposals = facts.proposals if proposals is None else proposals
            model = vitdet_vid(canvas, len(known), proposals, weights, architecture or facts.architecture)
        self.model = freeze(_with_token_rows(model))
        self._grid = patch_grid(cast(Any, self.model).patch_embed, (canvas, canvas))

    def clips(self, split: str) -> list[Clip]:
        """The sequences of a split, of two frames or more; frames are decoded when they are asked for.

        Raises:
            UserError: If there is no such split, or nothing of it is left.
            VideoError: If the first frame of a sequence cannot be read.
        """
        if self._videos is None:
            raise UserError("task vid needs videos: give task_options.root=FOLDER")
        sequences = self._videos.split(self._splits.get(split, split)).sequences
        clips = [clip_of(sequence) for sequence in sequences if len(sequence) >= MIN_FRAMES]
        if self._frame_size is not None:
            clips = [clip for clip in clips if tuple(clip.frames_THWC.shape[1:3]) == self._frame_size]
        if not clips:
            size = "" if self._frame_size is None else f" with frames of {list(self._frame_size)} pixels"
            raise UserError(f"task vid: split {split} has no sequence of {MIN_FRAMES} frames or more{size}")
        return clips

    def preprocess(self, frames_BHWC: Tensor) -> Tensor:
        """uint8 RGB frames (B, H, W, 3) of any size to the detector's input, on their canvas (B, 3, E, E).

        Raises:
            ValueError: If the frames are not uint8 or not of that shape.
        """
        return self._canvas.prepare(frames_BHWC)

    def loss(self, outputs: Tensor, targets: Sequence[Target]) -> Tensor:
        """How far the detections are from the labels (B,), differentiable in their scores; see `token_loss`."""
        return self.token_loss(outputs, targets).sum(1)

    def token_loss(self, outputs: Tensor, targets: Sequence[Target]) -> Tensor:
        """Each token's part of the loss (B, N), 0 to classes / N: as `output_distance`, of class scores to the labels.

        It is not the loss that the detectors were trained with.
        """
        found_BK6, _, _ = split_rows(outputs)
        true_BNL = torch.cat([self._map(_rows(target)) for target in self._placed(targets)]).to(outputs.device)
        distance_BN = detection_distance(self._map(found_BK6), true_BNL, torch.ones_like(true_BNL[..., 0]))
        return distance_BN / distance_BN.shape[1]

    def frame_metric(self, outputs: Tensor, targets: Sequence[Target]) -> Tensor:
        """Average precision at IoU 0.5 of each single frame (B,), all classes together, for rewards."""
        found = _found(outputs)
        return frame_ap(found, self._placed(targets), len(self.class_names), PUBLISHED).to(outputs.device)

    def output_distance(self, outputs: Tensor, dense_outputs: Tensor) -> Tensor:
        """How far proposals and detections are from the dense detector's at each token (B, N).

            detection_distance(objectness, boxes of the proposals)  +  detection_distance(class scores)

        The first part, 0 to 2, is of the best proposal among the anchors placed in the token: the squared difference
        of the roots of its objectness, and how far its box has moved, as far as both models see an object. The second,
        0 to the number of classes, is twice the squared Hellinger distance of the scores of the detections whose boxes
        the token is in.
        """
        found, dense = split_rows(outputs), split_rows(dense_outputs)
        overlap_BN, _ = paired_iou(found[1], dense[1])
        proposals_BN = detection_distance(found[2][..., None], dense[2][..., None], overlap_BN)
        map_BNL, dense_map_BNL = self._map(found[0]), self._map(dense[0])
        return proposals_BN + detection_distance(map_BNL, dense_map_BNL, torch.ones_like(overlap_BN))

    @staticmethod
    def saliency(outputs: Tensor) -> Tensor:
        """The best objectness of the anchors placed in each token (B, N)."""
        return split_rows(outputs)[2]

    def metric(self, rule: Rule = PUBLISHED) -> CanvasMetric:
        """A fresh accumulator of mAP50, by default with the details of the published evaluation."""
        return CanvasMetric(self._canvas, len(self.class_names), rule)

    def predictions(self, outputs: Tensor, frame_size: tuple[int, int]) -> list[list[dict[str, Any]]]:
        """Boxes of each stream as plain data, in pixels of a frame of `frame_size` (height, width)."""
        streams = []
        for found in _found(outputs):
            kept = found["scores"] >= self._min_score
            boxes = self._canvas.lift(found["boxes"][kept], frame_size).tolist()
            rows = zip(boxes, found["labels"][kept].tolist(), found["scores"][kept].tolist(), strict=True)
            streams.append([{"box": box, "label": self.class_names[k], "score": score} for box, k, score in rows])
        return streams

    def _map(self, found_BK6: Tensor) -> Tensor:
        return class_map(found_BK6, len(self.class_names), self._grid)

    def _placed(self, targets: Sequence[Target]) -> list[Target]:
        return [placed(target, self._canvas) for target in targets]


class CanvasMetric:
    """mAP50 with boxes on the canvas; implements `envs.task.Metric`.

    Args:
        canvas: The canvas.
        classes: Number of classes.
        rule: Details of matching and precision.
    """

    def __init__(self, canvas: Canvas, classes: int, rule: Rule) -> None:
        self._canvas, self._metric = canvas, MeanAveragePrecision50(classes, _found, rule)

    def update(self, clip: str, outputs: Tensor, targets: Sequence[Target]) -> None:
        """Adds outputs of frames of a clip and their labels, in pixels of the frame."""
        self._metric.update(clip, outputs, [placed(target, self._canvas) for target in targets])

    def compute(self, clips: Sequence[str] | None = None) -> float:
        """mAP50 over the named clips, with repetition, or over all."""
        return self._metric.compute(clips)


def placed(target: Target, canvas: Canvas) -> Target:
    """Boxes and labels of a frame with its `size`, in pixels of the canvas."""
    height, width = target["size"].tolist()
    return {"boxes": canvas.place(target["boxes"], (height, width)), "labels": target["labels"]}


def _rows(target: Target) -> Tensor:
    """Labels as perfect detections (1, K, 6)."""
    labels_K1 = target["labels"][:, None].float()
    return torch.cat([target["boxes"].float(), torch.ones_like(labels_K1), labels_K1], 1)[None]


def _found(outputs: Tensor) -> list[dict[str, Tensor]]:
    """The detections of each stream."""
    return detections(split_rows(outputs)[0])


def _with_token_rows(detector: nn.Module) -> nn.Module:
    """A copy of a detector whose head tells of tokens, too."""
    own = copy.deepcopy(detector)
    head = getattr(own, "head", None)
    if not isinstance(head, DetectionHead):
        raise UserError(f"task vid needs a detector of envs.vitdet.detector, got {type(detector).__name__}")
    own.head = TokenRows(head)
    return own
