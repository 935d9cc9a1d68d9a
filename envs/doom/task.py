"""Doom detection: the embedded video task. Clips of ViZDoom with exact boxes, a small dense detector, mAP50.

Shape suffixes: B streams, H height, W width, N tokens, X outputs of a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from envs.detection import MeanAveragePrecision50, frame_ap
from envs.detection.iou import paired_iou
from envs.doom.boxes import INPUT_SIZE, detections, split_outputs
from envs.doom.clips import load_split
from envs.doom.detector import load_detector
from envs.doom.labels import CLASS_NAMES
from envs.doom.loss import detection_loss, token_loss
from envs.doom.scenes import split_named
from envs.output_distance import detection_distance
from envs.task import Clip, Metric, Target, freeze

_MEAN, _STD = 0.25, 0.2
"""Mean and standard deviation of the frames' values on a scale from 0 to 1; Doom is dark."""

POLICY = Path(__file__).parent / "weights" / "policy"
"""Folder of the policy that ships with the package; `policies.load("doom")` loads it."""


class DoomDetection:
    """The task; implements `envs.task.VideoTask`.

    Args:
        model: The dense detector; the one that ships with the package if None.
        sizes: Number of clips by split, where it is not the default, such as `{"test": 4}`.
        frames: Number of frames of a clip.
        step: Tics (1/35 s) from frame to frame.
        folder: Folder of cached clips; `$EVENTFUL_CACHE` or `~/.cache/eventful-policies/doom` if None.
        min_score: Lowest score of what `predictions` returns.

    Raises:
        FileNotFoundError: If the detector's weights are missing.
        ValueError: If they are damaged, or sizes are given for a split that there is not.
    """

    name = "doom"
    metric_name = "mAP50"
    clip_options = ("sizes", "frames", "step", "folder")
    has_labels = True
    class_names: Sequence[str] = CLASS_NAMES

    def __init__(
        self,
        model: nn.Module | None = None,
        sizes: Mapping[str, int] | None = None,
        frames: int = 64,
        step: int = 2,
        folder: Path | str | None = None,
        min_score: float = 0.3,
    ) -> None:
        self.model = freeze(load_detector() if model is None else model)
        self.sizes = dict(sizes or {})
        for split in self.sizes:
            split_named(split)
        self.frames = frames
        self.step = step
        self.folder = None if folder is None else Path(folder)
        self.min_score = min_score

    def clips(self, split: str) -> list[Clip]:
        """Clips of `train`, `val`, `test` or `test_maps`, recorded on first use.

        Raises:
            ValueError: If there is no such split.
        """
        return load_split(split, self.sizes.get(split), self.frames, self.step, self.folder)

    def preprocess(self, frames_BHWC: Tensor) -> Tensor:
        """uint8 RGB frames (B, H, W, 3) of any size to the detector's input (B, 3, 240, 320)."""
        return preprocess(frames_BHWC)

    def loss(self, outputs: Tensor, targets: Sequence[Target]) -> Tensor:
        """The detector's training loss (B,), differentiable; boxes of the targets in pixels at 320 x 240."""
        return detection_loss(outputs, targets)

    def token_loss(self, outputs: Tensor, targets: Sequence[Target]) -> Tensor:
        """Each token's part of the loss (B, N), which tells rewards where a frame's loss comes from."""
        return token_loss(outputs, targets)

    def frame_metric(self, outputs: Tensor, targets: Sequence[Target]) -> Tensor:
        """Average precision at IoU 0.5 of each single frame (B,), all classes together, for rewards."""
        return frame_ap(detections(outputs), targets, len(CLASS_NAMES)).to(outputs.device)

    @staticmethod
    def output_distance(outputs: Tensor, dense_outputs: Tensor) -> Tensor:
        """How far scores and boxes are from the dense detector's at each token (B, N); see `detection_distance`.

        From 0 to classes + 1: up to 1 for each class that appears or vanishes, up to 1 for a box that moves.
        """
        logits_BNC, boxes_BN4 = split_outputs(outputs)
        dense_logits_BNC, dense_boxes_BN4 = split_outputs(dense_outputs)
        overlap_BN, _ = paired_iou(boxes_BN4, dense_boxes_BN4)
        return detection_distance(logits_BNC.sigmoid(), dense_logits_BNC.sigmoid(), overlap_BN)

    @staticmethod
    def saliency(outputs: Tensor) -> Tensor:
        """The best class score of each token (B, N)."""
        return split_outputs(outputs)[0].sigmoid().amax(-1)

    def metric(self) -> Metric:
        """A fresh accumulator of mAP50."""
        return MeanAveragePrecision50(len(CLASS_NAMES), detections)

    def predictions(self, outputs: Tensor, frame_size: tuple[int, int]) -> list[list[dict[str, Any]]]:
        """Boxes of each stream as plain data, scaled to a frame of `frame_size` (height, width)."""
        height, width = frame_size
        scale = torch.tensor([width / INPUT_SIZE[1], height / INPUT_SIZE[0]]).repeat(2)
        streams = []
        for found in detections(outputs, self.min_score):
            boxes = (found["boxes"].cpu() * scale).tolist()
            rows = zip(boxes, found["labels"].tolist(), found["scores"].tolist(), strict=True)
            streams.append([{"box": box, "label": CLASS_NAMES[k], "score": score} for box, k, score in rows])
        return streams


def preprocess(frames_BHWC: Tensor) -> Tensor:
    """uint8 RGB frames (B, H, W, 3) of any size to the detector's input (B, 3, 240, 320), on the same device.

    Raises:
        ValueError: If the frames are not uint8 or not of that shape.
    """
    if frames_BHWC.dtype != torch.uint8 or frames_BHWC.dim() != 4 or frames_BHWC.shape[-1] != 3:
        raise ValueError(
            f"frames must be uint8 of shape (B, H, W, 3), got {frames_BHWC.dtype} {tuple(frames_BHWC.shape)}"
        )
    x_BCHW = normalise(frames_BHWC)
    if x_BCHW.shape[-2:] == INPUT_SIZE:
        return x_BCHW
    return F.interpolate(x_BCHW, INPUT_SIZE, mode="bilinear", antialias=True, align_corners=False)


def normalise(frames_BHWC: Tensor) -> Tensor:
    """uint8 RGB pixels (B, H, W, 3) to values of about zero mean and unit variance (B, 3, H, W)."""
    return (frames_BHWC.permute(0, 3, 1, 2).float() / 255 - _MEAN) / _STD
