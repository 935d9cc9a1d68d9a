"""The videos of a split, looked at before a model is shown them."""

from __future__ import annotations

from collections.abc import Sequence

from envs.vivit import ViViT
from envs.vivit.videos import LabelledVideo, VideoSet
from eventful import cli
from eventful.errors import UserError


def videos_for(
    vivit: ViViT, weights: str, data: VideoSet, name: str, split: str, most: int | None
) -> Sequence[LabelledVideo]:
    """The first videos of a split, all of classes that a model knows.

    Args:
        vivit: The model.
        weights: Where it comes from, for messages.
        data: The set.
        name: Its name, for messages.
        split: Name of the split.
        most: Number of videos; all if None.

    Raises:
        UserError: If there is no such split, it has no videos, or one of a class beyond the model's.
    """
    with cli.user_input(f"data {name}"):
        videos = data.videos(split)[:most]
    if not videos:
        raise UserError(f"data {name}: split {split} has no videos")
    classes = vivit.temporal.classifier.out_features
    beyond = next((video for video in videos if not 0 <= video.label < classes), None)
    if beyond is not None:
        raise UserError(
            f"data {name}: {beyond.name} is of class {beyond.label}, and {weights} tells "
            f"{classes} classes, 0 to {classes - 1}"
        )
    return videos
