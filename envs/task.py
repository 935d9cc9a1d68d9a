"""What a video task is: clips, labels, a frozen dense model, a loss and a metric.

A task knows nothing of eventful inference or of policies. It supplies a `timm` vision transformer whose
`forward` returns what the task scores (for dense prediction the model's `head` is a token-wise module), so that
`eventful.wrap(task.model, policy)` can stand in for it everywhere.

What a task may offer besides are the methods of `OptionalParts`: each is looked for by name.

Shape suffixes: B streams, T frames, C channels, H height, W width, N tokens, D channels of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, overload, runtime_checkable

from torch import Tensor, nn

from eventful.video.frames import Frame, Tubelet

Target = Mapping[str, Tensor]
"""Labels of one frame. Detection: `boxes` (K, 4) xyxy in pixels of the frame, `labels` (K,) int64."""


class Frames(Protocol):
    """uint8 RGB frames (T, H, W, 3): a tensor, or something that decodes a frame when it is asked for."""

    @property
    def shape(self) -> Sequence[int]:
        """(T, H, W, 3)."""

    def __iter__(self) -> Iterator[Tensor]:
        """The frames one after another."""

    @overload
    def __getitem__(self, index: int, /) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice, /) -> Frames: ...

    def __getitem__(self, index: int | slice, /) -> Tensor | Frames:
        """One frame (H, W, 3), or some of them."""


@dataclass(frozen=True)
class Clip:
    """Consecutive frames of one video, with a label for each frame if the task has labels.

    Attributes:
        name: Unique within the task; evaluation resamples whole clips by it.
        frames_THWC: uint8 RGB frames (T, H, W, 3): a tensor, a memory-mapped array wrapped by `torch.from_numpy`, or
            frames that are decoded one by one, as they are asked for.
        targets: One `Target` a frame, or empty for label-free tasks.
        fps: Frames per second of the recording.
        tags: Free facts for grouping results, such as `{"map": "MAP03", "camera": "moving"}`.
    """

    name: str
    frames_THWC: Frames
    targets: Sequence[Target] = ()
    fps: float = 25.0
    tags: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.frames_THWC.shape[0]


class Metric(Protocol):
    """Accumulates predictions clip by clip, so that evaluation can bootstrap over clips.

    Frames of a clip come in their order. The first one, the flush, is left out, as it is dense whatever the policy; a
    metric of whole clips has an attribute `whole_clips = True`, and is given it, too.
    """

    def update(self, clip: str, outputs: Any, targets: Sequence[Target]) -> None:
        """Adds model outputs (B first) of frames of the clip with that name and their labels."""

    def compute(self, clips: Sequence[str] | None = None) -> float:
        """The metric over the named clips (with repetition, for the bootstrap) or over all of them."""


@runtime_checkable
class VideoTask(Protocol):
    """A place where decisions are scored.

    Attributes:
        name: Short name, as in `task=NAME`.
        model: The frozen dense model, in eval mode, parameters without gradients.
        metric_name: What `metric()` computes, such as `mAP50`; higher is better. `fidelity` without labels.
        has_labels: Whether clips carry targets; if not, there is no loss and no metric but the distance to the dense
            model's outputs.
        class_names: Names of the predicted classes, empty if there are none.
    """

    name: str
    model: nn.Module
    metric_name: str
    has_labels: bool
    class_names: Sequence[str]

    def clips(self, split: str) -> Sequence[Clip]:
        """Clips of a split (`train`, `val`, `test` and task-specific ones).

        Raises:
            ValueError: If the task has no such split; the message names those it has.
        """

    def preprocess(self, frames_BHWC: Tensor) -> Tensor:
        """uint8 RGB frames (B, H, W, 3) of any size to model input (B, 3, H', W'), on the frames' device."""

    def loss(self, outputs: Any, targets: Sequence[Target]) -> Tensor:
        """Differentiable task loss of each stream (B,) for model outputs and labels.

        Raises:
            ValueError: If the task has no labels.
        """

    def metric(self) -> Metric | None:
        """A fresh accumulator of the task's metric, None where there is neither a label nor `targets_from_dense`."""

    def predictions(self, outputs: Any, frame_size: tuple[int, int]) -> list[list[dict[str, Any]]]:
        """Model outputs as plain data, one list a stream, for JSON lines and overlays.

        Args:
            outputs: What `model(frame)` returned.
            frame_size: (height, width) of the original frame, to which boxes are scaled.

        Returns:
            For detection, dicts with `box` [x1, y1, x2, y2], `label` (class name) and `score`.
        """


class OptionalParts(Protocol):
    """What a task may offer besides, each of them for itself; an attribute that is None counts as not offered.

    N is the number of patch tokens, row by row, without class and register tokens; what is one of the whole frame, as
    the class probabilities of a classifier, is (B, 1).
    """

    clip_options: Sequence[str]
    """Names of the options that only `clips` depends on: a checkpoint's are not needed on other footage."""

    def token_loss(self, outputs: Any, targets: Sequence[Target]) -> Tensor:
        """Each token's part of the loss (B, N), prefix tokens included: tells REINFORCE where a loss comes from."""

    def frame_metric(self, outputs: Any, targets: Sequence[Target]) -> Tensor:
        """A measure of single frames (B,), NaN where a frame has none, if the metric of one frame says little."""

    def output_distance(self, outputs: Any, dense_outputs: Any) -> Tensor:
        """How far the outputs are from the dense model's on the same frame, at each token: (B, N) or (B, 1).

        0 for equal outputs, bounded, in units that its docstring states; needs no labels. For training with gradients
        it must have some (`envs.output_distance` has distances to make it of). Outputs must be tensors.
        """

    def saliency(self, outputs: Any) -> Tensor:
        """How much the consumer of the outputs cares for each token: (B, N) or (B, 1), in [0, 1]."""

    def targets_from_dense(self, outputs: Any) -> Sequence[Target]:
        """What the dense model's outputs (B first) say, as the targets of a task without labels, one for each stream.

        With it such a task has a metric: the agreement with the dense model on the same frame. Targets are made where
        they are needed, of outputs that are computed there anyway, in the data type that is evaluated.
        """


class VideoParts(Protocol):
    """What a task may offer besides for the videos of `eventful-infer`, each of them for itself.

    Attributes:
        tubelet: How many frames of a video are one frame of the task; one if it does not say. Its clips have these,
            one above the other (T, n * H, W, 3), and so does what `preprocess` takes.
    """

    tubelet: Tubelet

    def picture(self, frame: Frame) -> Frame:
        """The part of a frame (H, W, 3) that the model looks at, which is what is written to a video."""

    def watch(self) -> Callable[[Any, tuple[int, int]], list[list[dict[str, Any]]]]:
        """A fresh reader of one video: takes what `predictions` takes, frame by frame, and may look back."""


def offers(task: VideoTask, part: str) -> bool:
    """Whether a task offers one of the `OptionalParts`."""
    return getattr(task, part, None) is not None


def of_whole_clips(metric: Metric) -> bool:
    """Whether a metric is one of whole clips, their first frames included."""
    return getattr(metric, "whole_clips", False)


def has_metric(task: VideoTask) -> bool:
    """Whether there is a metric of frames: against labels, or against what the dense model makes of them."""
    return task.has_labels or offers(task, "targets_from_dense")


def freeze(model: nn.Module) -> nn.Module:
    """Puts a model into eval mode and switches its gradients off, in place."""
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model
