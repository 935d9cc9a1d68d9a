"""The table: mAP50 by two rules and MACs of each row, beside the published figures where there are any."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from envs.detection import COCO, PUBLISHED, MeanAveragePrecision50
from envs.vid import VidSequence
from envs.vid.images import size_of
from envs.vitdet.canvas import Canvas
from envs.vitdet.roi_heads import detections
from train.paper.published import Figures
from train.paper.results import SequenceResult

HEADER = ("row", "mAP50", "mAP50 (COCO)", "G", "published mAP50", "published G")


@dataclass(frozen=True)
class Line:
    """A line of the table.

    Attributes:
        name: Name of the row.
        published_rule: mAP50 in percent by the published rule, for which an IoU of 0.5 is no hit.
        coco_rule: mAP50 in percent by COCO's, for which it is.
        giga: 10^9 MACs of a frame, mean over all frames, flushes included.
    """

    name: str
    published_rule: float
    coco_rule: float
    giga: float


def line_of(
    name: str, results: Mapping[str, SequenceResult], sequences: Sequence[VidSequence], canvas: Canvas, classes: int
) -> Line:
    """A line from the results of all sequences; in their order, whatever order they were computed in."""
    metrics = [MeanAveragePrecision50(classes, rule=rule) for rule in (PUBLISHED, COCO)]
    frames, macs = 0, 0.0
    for sequence in sequences:
        result = results[sequence.name]
        size = size_of(sequence.frames[0].path)
        for rows, target in zip(result.detections, sequence.targets, strict=True):
            (found,) = detections(torch.tensor(rows).reshape(1, -1, 6))
            truth = {"boxes": canvas.place(target["boxes"], size), "labels": target["labels"]}
            for metric in metrics:
                metric.add(sequence.name, found, truth)
        frames, macs = frames + result.frames, macs + result.macs
    first, second = (100 * metric.compute() for metric in metrics)
    return Line(name, first, second, macs / frames / 1e9)


def as_csv(lines: Sequence[Line], published: Mapping[str, Figures]) -> str:
    """The table as CSV, with all digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for line in lines:
        theirs = published.get(line.name, ("", ""))
        writer.writerow([line.name, line.published_rule, line.coco_rule, line.giga, *theirs])
    return text.getvalue()


def as_markdown(lines: Sequence[Line], published: Mapping[str, Figures]) -> str:
    """The table as Markdown, rounded as the paper does."""
    header = HEADER if published else HEADER[:4]
    rows = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for line in lines:
        cells = [line.name, f"{line.published_rule:.2f}", f"{line.coco_rule:.2f}", f"{line.giga:.4g}"]
        if published:
            cells += [f"{figure:g}" for figure in published.get(line.name, ())] or ["", ""]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"
