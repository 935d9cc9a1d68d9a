"""Follow: real footage, a narrow consumer, no labels and no training.

The consumer is the similarity of every final token to what was in a box of the first training frame
(`envs.follow.head`). What it makes of a frame is a map of probabilities, the mask where they are at least 1/2, and the
box that the mask implies. It is scored by agreement with what the dense model makes of the same frame.

Shape suffixes: B streams, N patch tokens, X all tokens (class and registers first), Y and X (in YX) rows and columns of
the grid, H height, W width, C channels, D channels of a token.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from envs.backbones import load_backbone
from envs.follow.box import cells_in_box
from envs.follow.distractors import distractor_named
from envs.follow.head import SimilarityHead
from envs.follow.mask import box_iou, implied_box, mask_iou
from envs.footage import FootageClips, FootageTask, ModelInput, SplitRanges
from envs.footage.agreement import Agreement
from envs.footage.decoded import videos_in
from envs.output_distance import detection_distance
from envs.task import Target, freeze
from eventful.errors import UserError
from eventful.families import adapt
from eventful.video.reader import read_frames

LABEL = "match"


class Follow(FootageTask):
    """The task; implements `envs.task.VideoTask`, with `output_distance`, `saliency` and `targets_from_dense`.

    Args:
        model: timm's name of the model, or a model, which is copied. Its pooling and head are replaced.
        video: Video file or folder of images.
        box: [x1, y1, x2, y2] around what is to be followed, in pixels of the video, in its first training frame.
        weights: Weights file (.safetensors, .pth); downloaded by name if None.
        image_size: [height, width] of the model's input; the model's own if None.
        num_classes: Size of the classifier in the weights file, 0 for none; the model's own if None.
        train_frames: Frames to train on, such as `0-349` (last included) or `100-` (to the end). By default what
            lies before `test_frames`, or 70 % of the video. Its last tenth is the split `val`.
        test_frames: Frames to evaluate on; by default what lies behind `train_frames`.
        clip_length: Least number of frames of a clip, see `envs.footage.FootageClips`.
        threshold: Cosine to the prototype from which on a token belongs to the mask.
        temperature: Cosine from the threshold to a probability of 73 %.
        measure: What agreement is measured on: IoU of the `mask` or of the `box`.
        distractor: Motion that is added to the frames of all clips, but neither to the one of the box nor to live
            video: `none`, `picture` or `shake` (`envs.follow.distractors`).
        distractor_seed: Seed of the distractor.
        cache: Folder for decoded footage; `$EVENTFUL_CACHE/distill` or `~/.cache/eventful-policies/distill` if None.

    Raises:
        UserError: If the model, its weights, a range or the box cannot be used; the message says why.
        VideoError: If the video cannot be read.
        OSError: If a file is missing.
    """

    name = "follow"
    class_names: Sequence[str] = (LABEL,)

    clip_options = ("test_frames", "clip_length", "distractor", "distractor_seed", "cache")

    def __init__(
        self,
        model: str | nn.Module,
        video: str | Path,
        box: Sequence[float],
        weights: str | Path | None = None,
        image_size: Sequence[int] | None = None,
        num_classes: int | None = None,
        train_frames: str | None = None,
        test_frames: str | None = None,
        clip_length: int = 32,
        threshold: float = 0.7,
        temperature: float = 0.05,
        measure: Literal["mask", "box"] = "mask",
        distractor: str = "none",
        distractor_seed: int = 0,
        cache: str | Path | None = None,
    ) -> None:
        if not -1 < threshold < 1 or temperature <= 0:
            raise UserError(f"-1 < threshold < 1 and temperature > 0 are needed, got {threshold} and {temperature}")
        self._measure, self.metric_name = measure, f"{measure} IoU"
        ranges, alteration = SplitRanges.parse(train_frames, test_frames), distractor_named(distractor, distractor_seed)
        frame_HWC = _frame(Path(video), ranges.first)
        own = (
            copy.deepcopy(model)
            if isinstance(model, nn.Module)
            else load_backbone(model, weights, image_size, num_classes)
        )
        self.model = freeze(_without_head(own))
        self._input = ModelInput(self.model, image_size)
        self._footage = FootageClips(self.name, video, ranges, clip_length, self._input, cache, alteration)
        self._grid = adapt(self.model).grid(self._input.size)
        inside_N = cells_in_box(box, (frame_HWC.shape[0], frame_HWC.shape[1]), self._grid)
        self.model.head = SimilarityHead.of_box(self._tokens(frame_HWC), inside_N, threshold, temperature)
        self.model.to(next(self.model.parameters()))  # the head, where the rest is

    def saliency(self, outputs: Tensor) -> Tensor:
        """The probability (B, N) of each token to show the like of what was in the box."""
        return outputs.float().sigmoid()

    def output_distance(self, outputs: Tensor, dense_outputs: Tensor) -> Tensor:
        """Squared Hellinger distance (B, N) of each token's probabilities, to show it or not; from 0 to 1."""
        p_BN2, q_BN2 = (torch.stack([p_BN, 1 - p_BN], -1) for p_BN in map(self.saliency, (outputs, dense_outputs)))
        return detection_distance(p_BN2, q_BN2, torch.ones_like(p_BN2[..., 0])) / 2

    def targets_from_dense(self, outputs: Tensor) -> list[Target]:
        """What is found in each frame: `mask` (N,) bool, and `box` (4,) as parts of width and height, 0 for none."""
        box_B4, _ = self._boxes(outputs)
        return [{"mask": mask_N, "box": box_4} for mask_N, box_4 in zip(outputs >= 0, box_B4, strict=True)]

    def metric(self) -> Agreement:
        """A fresh accumulator of the IoU with the dense model's mask or box, mean over frames."""
        return Agreement(self.targets_from_dense, self._overlap)

    def predictions(self, outputs: Tensor, frame_size: tuple[int, int]) -> list[list[dict[str, Any]]]:
        """The box of each stream as plain data, scaled to a frame of `frame_size` (height, width); none if empty."""
        height, width = frame_size
        box_B4, score_B = self._boxes(outputs)
        scaled = (box_B4.cpu() * torch.tensor([width, height, width, height])).tolist()
        rows = zip(scaled, score_B.tolist(), strict=True)
        return [[{"box": box, "label": LABEL, "score": score}] if score > 0 else [] for box, score in rows]

    def _boxes(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """The implied box of each stream and its score, see `implied_box`."""
        return implied_box(self.saliency(outputs).unflatten(1, self._grid), (outputs >= 0).unflatten(1, self._grid))

    def _overlap(self, found: Target, dense: Target) -> float:
        overlap = mask_iou if self._measure == "mask" else box_iou
        return float(overlap(found[self._measure][None], dense[self._measure][None]))

    @torch.no_grad()
    def _tokens(self, frame_HWC: Tensor) -> Tensor:
        """What the head will get for a frame (X, D), from the model without one."""
        place = next(self.model.parameters())
        tokens: Tensor = self.model(self.preprocess(frame_HWC[None].to(place.device)).to(place.dtype))
        if tokens.dim() != 3:
            raise UserError(
                f"task follow needs a model whose features are tokens (B, N, D), such as timm's VisionTransformer; "
                f"those of {type(self.model).__name__} are {tuple(tokens.shape)}"
            )
        return tokens[0].cpu()


def _without_head(model: nn.Module) -> nn.Module:
    """Takes pooling and classifier off a timm model, in place: it returns its final tokens."""
    reset: Any = getattr(model, "reset_classifier", None)
    if reset is None:
        raise UserError(f"task follow needs a timm model, whose head can be replaced; got {type(model).__name__}")
    reset(0, "")
    return model


def _frame(video: Path, number: int) -> Tensor:
    """One frame (H, W, 3) of a video."""
    if videos_in(video) != [video]:
        raise UserError(f"task follow takes one video, in which the box is; {video} is a folder of videos")
    frame_HWC = next(islice(read_frames(video), number, None), None)
    if frame_HWC is None:
        raise UserError(f"video {video} has no frame {number}, in which the box should be: set train_frames")
    return torch.from_numpy(frame_HWC)
