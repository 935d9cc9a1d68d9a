"""How well a dense detector finds the objects of a split.

Shape suffixes: B frames, H height, W width, C colours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from envs.detection import COCO, PUBLISHED, MeanAveragePrecision50
from envs.task import Target
from envs.vid import VidSequence, VidSplit
from envs.vitdet.canvas import Canvas
from envs.vitdet.roi_heads import detections

_AT_ONCE = 4


@dataclass(frozen=True)
class Score:
    """mAP50 of a split.

    Attributes:
        published: By the published rule, IoU above 0.5.
        coco: By COCO's.
        by_class: AP50 by COCO's rule of each class that the split has objects of, by name.
        frames: Number of frames.
    """

    published: float
    coco: float
    by_class: Mapping[str, float]
    frames: int


@torch.inference_mode()
def score(vit: nn.Module, canvas: Canvas, split: VidSplit) -> Score:
    """Scores a detector on every frame of a split."""
    vit.eval()
    names = split.classes.names
    published, coco = (MeanAveragePrecision50(len(names), detections, rule) for rule in (PUBLISHED, COCO))
    for sequence, images in split.walk():
        for frames_BHWC, targets in _batches(sequence, images, canvas):
            outputs = vit(canvas.prepare(frames_BHWC))
            for metric in (published, coco):
                metric.update(sequence.name, outputs, targets)
    by_class = {names[k]: value for k, value in coco.by_class().items()}
    return Score(published.compute(), coco.compute(), by_class, split.frames)


def _batches(sequence: VidSequence, images: Iterator[Tensor], canvas: Canvas) -> Iterator[tuple[Tensor, list[Target]]]:
    """A few frames at a time, with boxes in pixels of the canvas."""
    targets = iter(sequence.targets)
    while some := list(islice(images, _AT_ONCE)):
        height, width = some[0].shape[:2]
        true = list(islice(targets, len(some)))
        yield torch.stack(some), [{**one, "boxes": canvas.place(one["boxes"], (height, width))} for one in true]
