"""Distillation: any timm model, any footage, no labels. What is scored is fidelity to the dense model: of its features,
or of what its own head makes of them.

Frames are resized to the model's input without regard to their aspect ratio, as uint8, so that cached clips and live
video give the model exactly the same pixels, and normalised by the model's own data config.

Shape suffixes: B streams, T frames, C channels, H height, W width, D channels of the output.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import timm.data
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from envs.backbones import load_backbone
from envs.footage import default_cache, load_footage, videos_in
from envs.output_distance import class_distance, dense_distance
from envs.task import Clip, Metric, Target, freeze
from eventful.errors import UserError

TRAIN_SHARE = 0.7
VAL_SHARE = 0.1
TOP = 5

OutputDistance = Callable[[Tensor, Tensor], Tensor]


class Distillation:
    """The task; implements `envs.task.VideoTask`.

    Args:
        model: timm's name of the model, or a model.
        video: Video file, folder of images, or folder of videos (each split alike). Only `clips` needs it.
        weights: Weights file (.safetensors, .pth); downloaded by name if None.
        image_size: [height, width] of the model's input; the model's own if None.
        num_classes: Size of the classifier, 0 for none; the model's own if None.
        train_frames: Frames to train on, such as `0-349` (last included) or `100-` (to the end). By default what
            lies before `test_frames`, or 70 % of the video. Its last tenth is the split `val`.
        test_frames: Frames to evaluate on; by default what lies behind `train_frames`.
        clip_length: Least number of frames of a clip. A range is cut into equal clips; a rest of fewer frames than
            there are clips is left out.
        cache: Folder for decoded footage; `$EVENTFUL_CACHE/distill` or `~/.cache/eventful-policies/distill` if None.

    Raises:
        UserError: If the model, its weights or a range cannot be used; the message says why.
        OSError: If a file is missing.
    """

    name = "distill"
    metric_name = "fidelity"
    has_labels = False
    class_names: Sequence[str] = ()
    saliency = None

    def __init__(
        self,
        model: str | nn.Module,
        video: str | Path | None = None,
        weights: str | Path | None = None,
        image_size: Sequence[int] | None = None,
        num_classes: int | None = None,
        train_frames: str | None = None,
        test_frames: str | None = None,
        clip_length: int = 32,
        cache: str | Path | None = None,
    ) -> None:
        if clip_length < 1:
            raise UserError(f"clip_length must be at least 1, got {clip_length}")
        self._ranges = {"train": _parse_range(train_frames), "test": _parse_range(test_frames)}
        _check_overlap(self._ranges["train"], self._ranges["test"])
        self.video = None if video is None else Path(video)
        self.clip_length = clip_length
        self._cache = default_cache() if cache is None else Path(cache)
        if isinstance(model, nn.Module):
            self.model = freeze(model)
        else:
            self.model = freeze(load_backbone(model, weights, image_size, num_classes))
        data = timm.data.resolve_model_data_config(self.model)
        self.input_size = _input_size(self.model, image_size, data["input_size"])
        self._mean, self._std = torch.tensor(data["mean"]), torch.tensor(data["std"])
        # timm's other choices (lanczos, random) are not offered by F.interpolate.
        self._interpolation = "bilinear" if data["interpolation"] == "bilinear" else "bicubic"

    def clips(self, split: str) -> list[Clip]:
        """Clips of `train`, `val` or `test`; the footage is decoded on first use.

        Raises:
            UserError: If there is no such split, no video was given, or a range lies outside of it.
            VideoError: If a video cannot be read.
        """
        if split not in ("train", "val", "test"):
            raise UserError(f"task distill has no split {split!r}; it has train, val and test")
        if self.video is None:
            raise UserError("task distill needs footage: give video=PATH")
        return [clip for video in videos_in(self.video) for clip in self._cut(video, split)]

    def preprocess(self, frames_BHWC: Tensor) -> Tensor:
        """uint8 RGB frames (B, H, W, 3) of any size to model input (B, 3, H', W'), on the same device.

        Raises:
            ValueError: If the frames are not uint8 or not of that shape.
        """
        if frames_BHWC.dtype != torch.uint8 or frames_BHWC.dim() != 4 or frames_BHWC.shape[-1] != 3:
            raise ValueError(
                f"frames must be uint8 of shape (B, H, W, 3), got {frames_BHWC.dtype} {tuple(frames_BHWC.shape)}"
            )
        device = frames_BHWC.device
        x_BCHW = self._resize(frames_BHWC).permute(0, 3, 1, 2).float() / 255
        mean_C11, std_C11 = (x.to(device)[:, None, None] for x in (self._mean, self._std))
        return (x_BCHW - mean_C11) / std_C11

    @property
    def output_distance(self) -> OutputDistance | None:
        """How far what the model's own head returns is from the dense model's; None for a model without one.

        For logits of classes (B, C) `class_distance`, one value for the frame, 0 to 1; for dense outputs
        `dense_distance`, 0 to 2.
        """
        prefix = getattr(self.model, "num_prefix_tokens", 0)
        return partial(_output_distance, prefix=prefix) if _has_head(self.model) else None

    def loss(self, outputs: Any, targets: Sequence[Target]) -> NoReturn:
        """There is none.

        Raises:
            UserError: Always.
        """
        raise UserError("task distill has no labels and no task loss; train on the distance to the dense model")

    def metric(self) -> Metric | None:
        """None: fidelity comes from the features."""
        return None

    def predictions(self, outputs: Tensor, frame_size: tuple[int, int]) -> list[list[dict[str, Any]]]:
        """The five likeliest classes of each stream, or the norm of its feature vector (B, D) without a classifier."""
        if not getattr(self.model, "num_classes", 0):
            return [[{"feature_norm": norm}] for norm in outputs.float().flatten(1).norm(dim=1).tolist()]
        best = outputs.float().softmax(-1).topk(min(TOP, outputs.shape[-1]), dim=-1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [[{"label": str(k), "score": p} for k, p in zip(*row, strict=True)] for row in pairs]

    def _cut(self, video: Path, split: str) -> list[Clip]:
        stops = [r[1] for r in self._ranges.values() if r is not None]
        stop = max(stops) if len(stops) == 2 and None not in stops else None  # type: ignore[type-var]
        frames_THWC, fps = load_footage(video, self.input_size, self._resize, stop, self._cache)
        start, end = self._split_range(split, len(frames_THWC), video)
        count = max((end - start) // self.clip_length, 1)
        length = (end - start) // count
        return [
            Clip(
                name=f"{video.name}:{first}-{first + length - 1}",
                frames_THWC=frames_THWC[first : first + length],
                fps=fps,
                tags={"video": video.name},
            )
            for first in range(start, start + count * length, length)
        ]

    def _split_range(self, split: str, total: int, video: Path) -> tuple[int, int]:
        """First frame and the one after the last, of a split in a video of `total` frames."""
        train, test = self._ranges["train"], self._ranges["test"]
        train = train or (0, test[0] if test else max(round(total * TRAIN_SHARE), 1))
        start, end = train[0], total if train[1] is None else train[1]
        border = max(end - max(round((end - start) * VAL_SHARE), 1), start)
        test = test or (end, None)
        ranges = {"train": (start, border), "val": (border, end), "test": (test[0], test[1] or total)}
        first, last = ranges[split]
        if not 0 <= first < last <= total:
            raise UserError(
                f"video {video} has {total} frames (0-{total - 1}), which leaves split {split} no frames "
                f"{first}-{last - 1}: set train_frames and test_frames"
            )
        return first, last

    def _resize(self, frames_BHWC: Tensor) -> Tensor:
        """uint8 frames of any size to uint8 frames of the model's input size."""
        if tuple(frames_BHWC.shape[1:3]) == self.input_size:
            return frames_BHWC
        x_BCHW = F.interpolate(
            frames_BHWC.permute(0, 3, 1, 2).float(), self.input_size, mode=self._interpolation, antialias=True
        )
        return x_BCHW.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _has_head(model: nn.Module) -> bool:
    """Whether `forward` makes something of the features, beyond pooling them."""
    find = getattr(model, "get_classifier", None)
    heads = getattr(model, "head", None) if find is None else find()
    found = [head for head in (heads if isinstance(heads, tuple) else (heads,)) if isinstance(head, nn.Module)]
    return any(True for head in found for _ in head.parameters())


def _output_distance(outputs: Tensor, dense_outputs: Tensor, prefix: int) -> Tensor:
    if outputs.dim() == 2:
        return class_distance(outputs, dense_outputs)
    return dense_distance(outputs, dense_outputs)[:, prefix if outputs.dim() == 3 else 0 :]


def _input_size(model: nn.Module, image_size: Sequence[int] | None, default: tuple[int, int, int]) -> tuple[int, int]:
    fixed = getattr(getattr(model, "patch_embed", None), "img_size", None)
    height, width = image_size or fixed or default[-2:]
    return height, width


def _parse_range(text: str | None) -> tuple[int, int | None] | None:
    """`a-b` (b included) or `a-` to (a, b + 1) or (a, None)."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+)\s*-\s*(\d*)\s*", text)
    if match is None or (match[2] and int(match[2]) < int(match[1])):
        raise UserError(f"a range of frames is written first-last, such as 0-349 or 100-, got {text!r}")
    return int(match[1]), int(match[2]) + 1 if match[2] else None


def _check_overlap(train: tuple[int, int | None] | None, test: tuple[int, int | None] | None) -> None:
    if train is None or test is None:
        return
    first, second = sorted([train, test], key=lambda r: r[0])
    if first[1] is None or first[1] > second[0]:
        raise UserError("train_frames and test_frames overlap: evaluation needs frames that training has not seen")
