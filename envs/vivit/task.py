"""Action recognition: videos with classes, and a factorised ViViT whose spatial part is to be made eventful.

A frame of the task is a step of a view, a tubelet of two frames of the video, and a clip is a view. The model is the
spatial part; what it returns for a step is the class token, the very one that `envs.vivit.encode` hands to the temporal
part. The consumer is that part, with the classifier behind it.

Top-1 is of whole views: the temporal part sees the class tokens of all steps in their order, the flush included. What
trains a policy has to say of a single step, without the others, what its class token is worth. It is taken as if the
whole view were like this step (`envs.vivit.step_head`): what is stale stays stale for several steps, and errs in the
same direction in each of them, so the errors that matter to a view are lasting ones. The alternative, to exchange this
token alone among the dense ones of its view, would need the dense model's run over the whole view before the first
lesson, or a head with a state, which the training engine, that goes back and forth between states, could not restore.

Shape suffixes: B streams, s steps seen so far, n frames of a tubelet, D channels, K classes, H height, W width.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from envs.distill import likeliest
from envs.output_distance import class_distance
from envs.task import Clip, Target, freeze
from envs.vivit.model import TUBELET, ViViT, tubelets
from envs.vivit.step_head import StepHead
from envs.vivit.videos import VideoSet, load_video_set, own_stride, plan_of, video_set_class, videos_for
from envs.vivit.view_accuracy import ViewAccuracy
from envs.vivit.view_clips import OpenVideos, StepFrames
from envs.vivit.views import ViewPlan, cropped, scaled
from envs.vivit.weights import load_vivit
from eventful import cli
from eventful.errors import UserError
from eventful.video.frames import Frame, Tubelet

_MIB = 2**20


class ActionRecognition:
    """The task; implements `envs.task.VideoTask`, with `output_distance` and what `VideoParts` has.

    Args:
        weights: Weights file of the ViViT, as `train.verbs`, `eventful-tune` and `python -m envs.convert` write it.
        data: Name of the set of videos (`envs.vivit.videos.VIDEO_SETS`), or `MODULE:CLASS`.
        root: Folder of the set: its option of this name. Only `clips` needs a set.
        data_options: Its other options.
        splits: Names that the splits have in the set, where they are others, such as `{"test": "validation"}`.
        classes: Names of the classes, in the order of their numbers; those that the set has, or the numbers, if None.
            A checkpoint knows those that are given.
        stride: Frames of a video from one frame of a view to the next; the set's own if None.
        starts: Number of times at which views of a video start; each view, from the middle of the frames, is a clip.
        sizes: Number of videos by split, evenly picked, where not all are to be used, such as `{"train": 400}`.
        frame_size: [height, width] of the videos: others are left out. Training needs videos of one size.
        cache_mb: Memory for decoded frames, in MiB; what does not fit is decoded again whenever it is asked for.
        vivit: The model, which is copied, instead of a file.

    Raises:
        UserError: If an option, or the weights, cannot be used; the message says why.
        OSError: If the file of the weights is missing.
    """

    name = "actions"
    metric_name = "top-1"
    has_labels = True
    saliency = None
    clip_options = ("root", "data_options", "splits", "starts", "sizes", "frame_size", "cache_mb")

    def __init__(
        self,
        weights: str | Path | None = None,
        data: Literal["folder", "epic", "kinetics", "listed"] | str = "folder",
        root: str | Path | None = None,
        data_options: Mapping[str, Any] | None = None,
        splits: Mapping[str, str] | None = None,
        classes: Sequence[str] | None = None,
        stride: int | None = None,
        starts: int = 1,
        sizes: Mapping[str, int] | None = None,
        frame_size: Sequence[int] | None = None,
        cache_mb: int = 1024,
        vivit: ViViT | None = None,
    ) -> None:
        self._vivit = _model(weights, vivit)
        self._head = StepHead(self._vivit.temporal)
        spatial: Any = self._vivit.spatial
        spatial.head = self._head
        self.model = freeze(spatial)
        self._weights, self._source = "the model" if weights is None else str(weights), data
        self._options = ({} if root is None else {"root": str(root)}) | dict(data_options or {})
        self._splits, self._sizes = dict(splits or {}), dict(sizes or {})
        self._classes = None if classes is None else [str(name) for name in classes]
        self._stride, self._starts = stride, starts
        self._frame_size = None if frame_size is None else tuple(frame_size)
        if self._classes is not None and len(self._classes) != self._known:
            raise UserError(f"classes has {len(self._classes)} names, and {self._weights} tells {self._known} classes")
        if self._frame_size is not None and len(self._frame_size) != 2:
            raise UserError(f"frame_size must be [height, width], got {list(self._frame_size)}")
        if cache_mb < 0:
            raise UserError(f"cache_mb must be at least 0, got {cache_mb}")
        for split, size in self._sizes.items():
            if size < 1:
                raise UserError(f"sizes.{split} must be at least 1, got {size}")
        # Refuses numbers that are none before anything is read.
        self._crop = ViewPlan(self._vivit.size, 1 if stride is None else stride, self._vivit.frames, starts, 1)
        self._videos = OpenVideos(cache_mb * _MIB)

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes, or their numbers where nobody names them."""
        if self._classes is not None:
            return self._classes
        named = getattr(self._data, "classes", None) if self._options else None
        return list(named) if isinstance(named, Sequence) else [str(k) for k in range(self._known)]

    @property
    def tubelet(self) -> Tubelet:
        """Frames of a video that are one frame of the task."""
        return Tubelet(TUBELET, own_stride(video_set_class(self._source)) if self._stride is None else self._stride)

    def clips(self, split: str) -> list[Clip]:
        """Views of the videos of a split, decoded when they are asked for.

        Raises:
            UserError: If there is no such split, no set was given, or its classes are not the model's.
            VideoError: If a video cannot be read.
        """
        self._check_classes()
        name = self._splits.get(split, split)
        videos = videos_for(self._vivit, self._weights, self._data, self._source, name, None)
        count = min(len(videos), self._sizes.get(split, len(videos)))
        clips, names = [], self.class_names
        for video in (videos[k * len(videos) // count] for k in range(count)):
            target = {"label": torch.tensor(video.label)}
            for start in range(self._starts):
                frames = StepFrames(self._videos, video, self._plan, start, range(self._steps))
                if self._frame_size in (None, (frames.shape[1] // TUBELET, frames.shape[2])):
                    which = video.name if self._starts == 1 else f"{video.name}@{start}"
                    tags = {"class": names[video.label]}
                    clips.append(Clip(which, frames, [target] * self._steps, tags=tags))
        if not clips:
            raise UserError(f"data {self._source}: split {name} has no videos of frame_size {self._frame_size}")
        return clips

    def preprocess(self, frames_BHWC: Tensor) -> Tensor:
        """uint8 RGB tubelets (B, n * H, W, 3) of any size to the model's input (B, 6, size, size), as published.

        Raises:
            ValueError: If they are not uint8 or not of that shape.
        """
        if frames_BHWC.dim() != 4 or frames_BHWC.shape[1] % TUBELET or frames_BHWC.shape[-1] != 3:
            raise ValueError(
                f"tubelets must be (B, {TUBELET} * H, W, 3), one frame above the other, got {tuple(frames_BHWC.shape)}"
            )
        frames_TCHW = rearrange(frames_BHWC, "b (n h) w c -> (b n) c h w", n=TUBELET)
        (crop_TCHW,) = cropped(scaled(frames_TCHW, self._crop.size), self._crop)
        return next(tubelets(crop_TCHW.unflatten(0, (-1, TUBELET))))

    def loss(self, outputs: Tensor, targets: Sequence[Target]) -> Tensor:
        """Cross entropy (B,) of what the classifier would say if the whole view were like this step."""
        return F.cross_entropy(self._logits(outputs).float(), _labels(targets).to(outputs.device), reduction="none")

    def frame_metric(self, outputs: Tensor, targets: Sequence[Target]) -> Tensor:
        """Whether that is right (B,), 0 or 1, for rewards."""
        return (self._logits(outputs).argmax(-1) == _labels(targets).to(outputs.device)).float()

    def output_distance(self, outputs: Tensor, dense_outputs: Tensor) -> Tensor:
        """How far that is from what it would say if it were like the dense model's step (B, 1).

        Jensen-Shannon divergence of the class probabilities, 0 to 1 (`envs.output_distance.class_distance`).
        """
        return class_distance(self._logits(outputs), self._logits(dense_outputs))

    def metric(self) -> ViewAccuracy:
        """A fresh accumulator of the top-1 of whole views."""
        return ViewAccuracy(self._head)

    def predictions(self, outputs: Tensor, frame_size: tuple[int, int]) -> list[list[dict[str, Any]]]:
        """The five likeliest classes of each stream, if the whole view were like this step."""
        return likeliest(self._logits(outputs), self.class_names)

    def watch(self) -> _Watcher:
        """A reader of one video: the likeliest classes after the steps so far, at most as many as a view has."""
        return _Watcher(self._head, self.class_names)

    @staticmethod
    def picture(frame: Frame) -> Frame:
        """The square in the middle of a tubelet's first frame."""
        height, width = frame.shape[0] // TUBELET, frame.shape[1]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return frame[top : top + side, left : left + side]

    @cached_property
    def _data(self) -> VideoSet:
        return load_video_set(self._source, **self._options)

    @cached_property
    def _plan(self) -> ViewPlan:
        with cli.user_input(f"task {self.name}"):
            return plan_of(self._data, self._vivit.size, self._vivit.frames, self._stride, self._starts, 1)

    @property
    def _steps(self) -> int:
        return self._head.temporal.steps

    @property
    def _known(self) -> int:
        """Number of classes that the model tells."""
        return self._head.temporal.classifier.out_features

    def _check_classes(self) -> None:
        """Refuses a set whose classes are others than the model's: labels are numbers, and would be off unnoticed."""
        there = getattr(self._data, "classes", None)
        names = list(there) if isinstance(there, Sequence) else None
        count = len(names) if names is not None else there
        if count is not None and count != self._known:
            raise UserError(
                f"data {self._source} has {count} classes{_listed(names)}, and {self._weights} tells {self._known}"
            )
        if names is not None and self._classes is not None and names != self._classes:
            raise UserError(f"data {self._source} has the classes{_listed(names)}, and classes is {self._classes}")

    def _logits(self, token_BD: Tensor) -> Tensor:
        return self._head.logits(token_BD[:, None])


class _Watcher:
    """Looks at the last steps of one video, at most as many as a view has.

    Args:
        head: The temporal part and the classifier.
        names: Names of the classes.
    """

    def __init__(self, head: StepHead, names: Sequence[str]) -> None:
        self._head, self._names = head, names
        self._seen: deque[Tensor] = deque(maxlen=head.temporal.steps)

    def __call__(self, outputs: Tensor, frame_size: tuple[int, int]) -> list[list[dict[str, Any]]]:
        self._seen.append(outputs)
        return likeliest(self._head.logits(torch.stack(list(self._seen), 1)), self._names)


def _model(weights: str | Path | None, vivit: ViViT | None) -> ViViT:
    if weights is not None and vivit is None:
        return load_vivit(weights)
    if vivit is not None and weights is None:
        return copy.deepcopy(vivit)
    raise UserError("task actions needs weights=FILE, such as `python -m train.verbs` and `envs.convert` write")


def _labels(targets: Sequence[Target]) -> Tensor:
    return torch.stack([target["label"] for target in targets])


def _listed(names: Sequence[str] | None) -> str:
    return "" if names is None else f" ({', '.join(names)})"
