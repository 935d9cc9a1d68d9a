"""Detections against objects, for any detector: overlap of boxes, matching, average precision."""

from envs.detection.average_precision import MeanAveragePrecision50, frame_ap
from envs.detection.rules import COCO, PUBLISHED, TORCHMETRICS, Rule

__all__ = ["COCO", "PUBLISHED", "TORCHMETRICS", "MeanAveragePrecision50", "Rule", "frame_ap"]
