"""What tasks on footage without labels share: clips of each split, frames as input of the model, no loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from torch import Tensor

from envs.footage.clips import FootageClips
from envs.footage.model_input import ModelInput
from envs.task import Clip, Target
from eventful.errors import UserError


class FootageTask:
    """Part of an `envs.task.VideoTask`; subclasses fill in the two attributes, and have a name.

    Attributes:
        name: Short name of the task.
        _input: What makes frames the model's input.
        _footage: Where clips come from.
    """

    name: str
    has_labels = False
    _input: ModelInput
    _footage: FootageClips

    def clips(self, split: str) -> list[Clip]:
        """Clips of `train`, `val` or `test`; the footage is decoded on first use.

        Raises:
            UserError: If there is no such split, no video was given, or a range lies outside of it.
            VideoError: If a video cannot be read.
        """
        return self._footage.of_split(split)

    def preprocess(self, frames_BHWC: Tensor) -> Tensor:
        """uint8 RGB frames (B, H, W, 3) of any size to model input (B, 3, H', W'), on the same device.

        Raises:
            ValueError: If the frames are not uint8 or not of that shape.
        """
        return self._input.preprocess(frames_BHWC)

    def loss(self, outputs: Any, targets: Sequence[Target]) -> NoReturn:
        """There is none.

        Raises:
            UserError: Always.
        """
        raise UserError(f"task {self.name} has no labels and no task loss; train on the distance to the dense model")
