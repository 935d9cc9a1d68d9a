"""Distillation: any supported model, any footage, no labels. What is scored is fidelity to the dense model: of its
features, or of what its own head, or the user's, makes of them. Where that is classes, evaluations show how often the
likeliest one is the dense model's.

Shape suffixes: B streams, C channels, H height, W width, D channels of the output.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from envs.backbones import load_backbone
from envs.footage import FootageClips, FootageTask, ModelInput, SplitRanges
from envs.footage.agreement import Agreement
from envs.hub.load import as_timm_does
from envs.output_distance import class_distance, dense_distance
from envs.task import Target, freeze
from eventful.families import adapt
from eventful.families.towers.backbone import TowerBackbone
from eventful.user_code import load_user_code

TOP = 5

OutputDistance = Callable[[Tensor, Tensor], Tensor]


class Distillation(FootageTask):
    """The task; implements `envs.task.VideoTask`.

    Args:
        model: timm's name of the model, `hf:NAME` for one of transformers, or a model.
        video: Video file, folder of images, or folder of videos (each split alike). Only `clips` needs it.
        weights: Weights file (.safetensors, .pth), or folder of a model of transformers; downloaded by name if None.
        image_size: [height, width] of the model's input; the model's own if None.
        num_classes: Size of the classifier, 0 for none; that of the weights file if None, or the model's own.
        train_frames: Frames to train on, such as `0-349` (last included) or `100-` (to the end). By default what
            lies before `test_frames`, or 70 % of the video. Its last tenth is the split `val`.
        test_frames: Frames to evaluate on; by default what lies behind `train_frames`.
        clip_length: Least number of frames of a clip. A range is cut into equal clips; a rest of fewer frames than
            there are clips is left out.
        head: `MODULE:FUNCTION`, or a function, of the model's final tokens (B, N, D), class tokens first. It takes the
            place of the model's own head: the damage is how far what it returns is from what it returns for the dense
            model. It returns logits of classes (B, C), or something for each token or patch (B, N, C), or maps
            (B, C, Y, X). It may be a module, on the model's device.
        cache: Folder for decoded footage; `$EVENTFUL_CACHE/distill` or `~/.cache/eventful-policies/distill` if None.

    Raises:
        UserError: If the model, its weights or a range cannot be used; the message says why.
        OSError: If a file is missing.
    """

    name = "distill"
    clip_options = ("video", "train_frames", "test_frames", "clip_length", "cache")
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
        head: str | Callable[[Tensor], Tensor] | None = None,
        cache: str | Path | None = None,
    ) -> None:
        ranges = SplitRanges.parse(train_frames, test_frames)
        if isinstance(model, nn.Module):
            self.model = freeze(as_timm_does(copy.copy(model)) if TowerBackbone.takes(model) else model)
        else:
            self.model = freeze(load_backbone(model, weights, image_size, num_classes))
        self._users_head = head is not None
        if head is not None:
            own: Any = self.model
            own.forward_head = load_user_code(head, "head") if isinstance(head, str) else head
        self._input = ModelInput(self.model, image_size)
        self._footage = FootageClips(self.name, video, ranges, clip_length, self._input, cache)

    @property
    def output_distance(self) -> OutputDistance | None:
        """How far what the head returns is from the dense model's; None for a model without one.

        For logits of classes (B, C) `class_distance`, one value for the frame, 0 to 1; for dense outputs
        `dense_distance`, 0 to 2.
        """
        rows, columns = adapt(self.model).grid(self._input.size)
        return partial(_output_distance, patches=rows * columns) if self._users_head or _has_head(self.model) else None

    @property
    def metric_name(self) -> str:
        """`top-1 agreement` where the head says classes, else `fidelity`, of the features."""
        return "fidelity" if self.targets_from_dense is None else "top-1 agreement"

    @property
    def targets_from_dense(self) -> Callable[[Tensor], list[Target]] | None:
        """The likeliest class of each frame, from logits (B, C); None where the head returns something else."""
        return _likeliest_class if self._says_classes else None

    def metric(self) -> Agreement | None:
        """A fresh accumulator: share of the frames with the dense model's likeliest class; None without classes."""
        return Agreement(_likeliest_class, _same_class) if self._says_classes else None

    @cached_property
    def _says_classes(self) -> bool:
        """Whether the head makes logits of two classes or more of a frame's tokens."""
        if not (self._users_head or (_has_head(self.model) and not _embeds(self.model))):
            return False
        backbone, place = adapt(self.model), next(self.model.parameters())
        rows, columns = backbone.grid(self._input.size)
        tokens_BND = place.new_zeros(1, backbone.prefix + rows * columns, backbone.dim)
        with torch.no_grad():
            outputs = backbone.head(backbone.features(tokens_BND, self._input.size))
        return isinstance(outputs, Tensor) and outputs.dim() == 2 and outputs.shape[1] > 1

    def predictions(self, outputs: Tensor, frame_size: tuple[int, int]) -> list[list[dict[str, Any]]]:
        """The five likeliest classes of each stream, or the norm of its outputs without a classifier of the model's."""
        if self._users_head or not getattr(self.model, "num_classes", 0):
            return [[{"feature_norm": norm}] for norm in outputs.float().flatten(1).norm(dim=1).tolist()]
        return likeliest(outputs, [str(k) for k in range(outputs.shape[-1])])


def _likeliest_class(logits_BC: Tensor) -> list[Target]:
    return [{"label": label} for label in logits_BC.argmax(-1)]


def _same_class(found: Target, dense: Target) -> float:
    return float(found["label"] == dense["label"])


def likeliest(logits_BC: Tensor, names: Sequence[str]) -> list[list[dict[str, Any]]]:
    """The five likeliest classes of each stream as plain data.

    Args:
        logits_BC: Logits of C classes that exclude each other.
        names: Their names.
    """
    best = logits_BC.float().softmax(-1).topk(min(TOP, logits_BC.shape[-1]), dim=-1)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [[{"label": names[k], "score": p} for k, p in zip(*row, strict=True)] for row in pairs]


def _has_head(model: nn.Module) -> bool:
    """Whether `forward` makes something of the features, beyond pooling them."""
    find = getattr(model, "get_classifier", None)
    heads = getattr(model, "head", None) if find is None else find()
    found = [head for head in (heads if isinstance(heads, tuple) else (heads,)) if isinstance(head, nn.Module)]
    return any(True for head in found for _ in head.parameters())


def _embeds(model: nn.Module) -> bool:
    """Whether what timm calls the classifier is the projection into an embedding, as in the image towers of CLIP."""
    config = getattr(model, "pretrained_cfg", None) or {}
    as_published = getattr(model, "num_classes", 0) == config.get("num_classes")
    return as_published and "clip" in str(config.get("architecture")) and "_ft_" not in str(config.get("tag"))


def _output_distance(outputs: Tensor, dense_outputs: Tensor, patches: int) -> Tensor:
    if outputs.dim() == 2:
        return class_distance(outputs, dense_outputs)
    return dense_distance(outputs, dense_outputs)[:, -patches if outputs.dim() == 3 else None :]
