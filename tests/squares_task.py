"""A task for evaluations: a ViT of 36 tokens, clips of squares that move over noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from envs.output_distance import dense_distance
from envs.task import Clip, freeze


class Agreement:
    """Minus the mean absolute output, over the frames of the given clips."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def update(self, clip: str, outputs: Tensor, targets: Sequence[Any]) -> None:
        assert len(outputs) == len(targets) == 1
        error = (outputs - targets[0]["expected"]).abs().mean()
        self.values.setdefault(clip, []).append(1 - float(error))

    def compute(self, clips: Sequence[str] | None = None) -> float:
        return float(np.mean([v for clip in clips or self.values for v in self.values[clip]]))


class Squares:
    """Bright squares that move over noise; the labels are the dense model's own outputs."""

    name, metric_name, class_names = "squares", "agreement", ()

    def __init__(self, labelled: bool = True, frames: int = 12) -> None:
        self.has_labels = labelled
        torch.manual_seed(0)
        vit = VisionTransformer(
            img_size=48,
            patch_size=8,
            embed_dim=32,
            depth=2,
            num_heads=2,
            num_classes=5,
            class_token=False,
            global_pool="",
        )
        torch.nn.init.normal_(vit.head.weight)
        self.model = freeze(vit)
        self.frames = frames

    def clips(self, split: str) -> list[Clip]:
        if split not in ("train", "test"):
            raise ValueError(f"no split {split!r}; there are train and test")
        return [self._clip(split, k) for k in range(4)]

    def _clip(self, split: str, k: int) -> Clip:
        generator = torch.Generator().manual_seed(k + 10 * (split == "train"))
        frames = self.frames - (k == 3)
        frames_THWC = torch.randint(0, 90, (48, 48, 3), generator=generator).repeat(frames, 1, 1, 1)
        frames_THWC += torch.randint(0, 40, frames_THWC.shape, generator=generator)
        for t in range(frames):
            x, y = (5 + (3 + k) * t) % 38, (7 + 2 * t) % 38
            frames_THWC[t, y : y + 10, x : x + 10] = 250
        frames_THWC = frames_THWC.to(torch.uint8)
        with torch.no_grad():
            expected = self.model(self.preprocess(frames_THWC))
        targets = [{"expected": row} for row in expected] if self.has_labels else ()
        return Clip(f"{split}-{k}", frames_THWC, targets)

    def preprocess(self, frames_BHWC: Tensor) -> Tensor:
        return frames_BHWC.permute(0, 3, 1, 2).float() / 128 - 1

    def metric(self) -> Agreement | None:
        return Agreement() if self.has_labels else None


class WatchedSquares(Squares):
    """Somebody looks at the outputs, and says where and how far they have moved."""

    def saliency(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(-1).amax(-1)

    def output_distance(self, outputs: Tensor, dense_outputs: Tensor) -> Tensor:
        return dense_distance(outputs, dense_outputs)
