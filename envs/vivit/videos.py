"""Sets of videos with classes: the contract between whoever reads a data set and whoever shows it to a ViViT.

A set of your own is a class, `MODULE:CLASS`, with what `VideoSet` has.

Shape suffixes: T frames, H height, W width.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from envs.actions import ClassFolders, EpicKitchens, Kinetics400
from envs.vivit.model import ViViT
from envs.vivit.views import Frames, ViewPlan
from eventful import cli
from eventful.errors import UserError
from eventful.tasks import check_options, nearest
from eventful.user_code import is_user_code, load_user_code
from eventful.video.reader import read_frames


@runtime_checkable
class LabelledVideo(Protocol):
    """One video, or one clip of it, of one class.

    Attributes:
        name: Its name, for messages.
        key: Changes with anything that changes its frames: what is computed from them is kept by it.
        label: Number of its class, from 0.
    """

    name: str
    key: str
    label: int

    def frames(self) -> Frames:
        """The frames that views are cut from.

        Raises:
            VideoError: If they cannot be read.
        """


@runtime_checkable
class VideoSet(Protocol):
    """A data set. It may have a `stride`: frames from one frame of a view to the next, as it is usually shown."""

    def videos(self, split: str) -> Sequence[LabelledVideo]:
        """The videos of a split.

        Raises:
            ValueError: If there is no such split; the message names those there are.
        """


@dataclass(frozen=True)
class VideoFile:
    """A `LabelledVideo` that is a video file, or a folder of images."""

    path: Path
    label: int

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def key(self) -> str:
        """Path, size and time of the last change."""
        facts = self.path.stat()
        return json.dumps([str(self.path.resolve()), facts.st_size, facts.st_mtime_ns])

    def frames(self) -> Frames:
        """All frames, in memory: T * H * W * 3 bytes."""
        return torch.from_numpy(np.stack(list(read_frames(self.path)))).movedim(-1, 1)


class ListedVideos:
    """A `VideoSet` in a table: a CSV file with the columns `video`, `label` and `split`.

    Args:
        table: The CSV file; paths in it may be relative to its folder.

    Raises:
        UserError: If the file is no such table.
        OSError: If it cannot be read.
    """

    def __init__(self, table: str) -> None:
        self._table = table
        try:
            with open(table, newline="", encoding="utf-8") as file:
                rows = csv.DictReader(file)
                missing = {"video", "label", "split"} - set(rows.fieldnames or ())
                if missing:
                    raise UserError(f"table {table} has no column {', '.join(sorted(missing))}")
                self._rows = list(rows)
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"table {table} cannot be read: {error}") from error
        for number, row in enumerate(self._rows, 2):
            if None in row.values() or None in row:
                raise UserError(f"table {table}, line {number}: it has not as many values as there are columns")
            if not (row["label"].isdecimal() and len(row["label"]) < 10):
                raise UserError(
                    f"table {table}, line {number}: label must be the number of a class, got {row['label']}"
                )

    def videos(self, split: str) -> Sequence[VideoFile]:
        """See `VideoSet.videos`."""
        folder = Path(self._table).parent
        found = [VideoFile(folder / row["video"], int(row["label"])) for row in self._rows if row["split"] == split]
        if not found:
            known = ", ".join(sorted({row["split"] for row in self._rows}))
            raise UserError(f"table {self._table} has no split {split!r} (it has: {known})")
        return found


VIDEO_SETS: dict[str, Any] = {
    "listed": ListedVideos,
    "folder": ClassFolders,
    "epic": EpicKitchens,
    "kinetics": Kinetics400,
}
"""Sets that come with the package, by name."""

STRIDE = 2
"""Stride of sets that have none of their own."""


def plan_of(
    data: VideoSet, size: int, frames: int, stride: int | None = None, starts: int = 4, crops: int = 3
) -> ViewPlan:
    """The views of a set's videos.

    Args:
        data: The set.
        size: Side of a view in pixels.
        frames: Frames of a view.
        stride: Frames of a video from one frame of a view to the next; the set's own if None.
        starts: Number of times at which views start.
        crops: Number of places at which frames are cropped.

    Raises:
        ValueError: For numbers that `ViewPlan` refuses.
    """
    return ViewPlan(size, own_stride(data) if stride is None else stride, frames, starts, crops)


def own_stride(data: VideoSet | type) -> int:
    """The stride of a set, or of a class of sets; `STRIDE` for those that have none."""
    return getattr(data, "stride", STRIDE)


def video_set_class(name: str) -> Any:
    """The class of a set: one of `VIDEO_SETS`, or `MODULE:CLASS`, which is imported.

    Raises:
        UserError: If there is no such set.
    """
    if is_user_code(name):
        return load_user_code(name, "data", "class")
    if name not in VIDEO_SETS:
        known = ", ".join(VIDEO_SETS)
        raise UserError(f"data: there is no {name!r}{nearest(name, VIDEO_SETS)} (there are: {known}, or MODULE:CLASS)")
    return VIDEO_SETS[name]


def load_video_set(name: str, **options: Any) -> VideoSet:
    """Builds a set of videos.

    Args:
        name: One of `VIDEO_SETS`, or `MODULE:CLASS`, which is imported.
        **options: Options of the set, plain data.

    Raises:
        UserError: If there is no such set, or it refuses an option.
        OSError: If a file that it needs is missing.
    """
    factory = video_set_class(name)
    check_options(f"data {name}", factory, options)
    with cli.user_input(f"data {name}"):
        made = factory(**options)
    if not isinstance(made, VideoSet):
        raise UserError(f"data {name} is no set of videos: it lacks videos (see envs.vivit.videos.VideoSet)")
    return made


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
