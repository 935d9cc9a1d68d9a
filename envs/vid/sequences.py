"""Sequences: runs of consecutive frames with boxes, between two flushes of an eventful model.

A clip is split where its frame numbers jump. Frames without objects are kept, or left out before the clip is split: the
paper's own list of ImageNet VID seems to lack them (its averages tell of 261 to 272 frames a sequence, the official
clips have 317), and detections on them are false alarms.

Shape suffixes: K objects of a frame, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from envs.task import Target
from envs.vid.classes import ClassList
from envs.vid.images import decoded
from eventful.console.output import progress
from eventful.errors import UserError

Empty = Literal["keep", "drop"]
"""What becomes of frames without objects."""


@dataclass(frozen=True, slots=True)
class VidFrame:
    """One frame, on disk.

    Attributes:
        path: Image file.
        clip: Name of the clip.
        number: Number of the frame in the clip.
        boxes_K4: Boxes of the objects, xyxy in pixels of the frame, float32.
        labels_K: Their classes, int64.
    """

    path: Path
    clip: str
    number: int
    boxes_K4: NDArray[np.float32]
    labels_K: NDArray[np.int64]

    @property
    def target(self) -> Target:
        """Boxes and labels as tensors."""
        return {"boxes": torch.from_numpy(self.boxes_K4), "labels": torch.from_numpy(self.labels_K)}


@dataclass(frozen=True)
class VidSequence:
    """Consecutive frames of one clip.

    Attributes:
        name: Name of the clip and the numbers of its first and last frame; unique within a split.
        frames: The frames in order.
    """

    name: str
    frames: tuple[VidFrame, ...]

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def clip(self) -> str:
        """Name of the clip."""
        return self.frames[0].clip

    @property
    def targets(self) -> list[Target]:
        """Boxes and labels of each frame."""
        return [frame.target for frame in self.frames]

    def images(self, workers: int = 2, ahead: int = 8) -> Iterator[Tensor]:
        """The frames one after another, uint8 RGB (H, W, 3); at most `ahead` of them wait decoded.

        Raises:
            VideoError: At a frame that cannot be read, or has another size than the first.
        """
        return decoded([frame.path for frame in self.frames], workers, ahead)


@dataclass(frozen=True)
class VidSplit:
    """A split of a set of videos.

    Attributes:
        sequences: Its sequences, ordered by clip and first frame.
        classes: Classes of the labels.
        left_out: Number of frames without objects that were left out.
    """

    sequences: tuple[VidSequence, ...]
    classes: ClassList
    left_out: int = 0

    @property
    def frames(self) -> int:
        """Number of frames of all sequences."""
        return sum(map(len, self.sequences))

    def walk(self, workers: int = 2, ahead: int = 8) -> Iterator[tuple[VidSequence, Iterator[Tensor]]]:
        """Each sequence with its images, as `VidSequence.images` has them; says how far it is on a terminal."""
        with progress(total=self.frames, unit="frame") as bar:
            for sequence in self.sequences:
                yield sequence, _counted(sequence.images(workers, ahead), bar)


def make_split(frames: Iterable[VidFrame], classes: ClassList, empty: Empty, step: int, source: Path) -> VidSplit:
    """Groups frames into sequences.

    Args:
        frames: Frames of all clips, in any order.
        classes: Classes of their labels.
        empty: Whether frames without objects are kept, or dropped.
        step: Largest step from one frame number to the next of the same sequence.
        source: File that lists the frames, for messages.

    Raises:
        UserError: If no frame is left, a frame is listed twice, or an argument is none of those there are.
    """
    if empty not in get_args(Empty):
        raise UserError(f"empty must be keep or drop, got {empty!r}")
    if step < 1:
        raise UserError(f"step must be at least 1, got {step}")
    listed = sorted(frames, key=lambda frame: (frame.clip, frame.number))
    for before, after in pairwise(listed):
        if (before.clip, before.number) == (after.clip, after.number):
            raise UserError(f"{source}: frame {after.number} of clip {after.clip} is listed twice")
    kept = [frame for frame in listed if empty == "keep" or len(frame.labels_K)]
    if not kept:
        raise UserError(f"{source}: there are no frames" + (" with objects" if listed else ""))
    sequences = []
    for _, clip in groupby(kept, key=lambda frame: frame.clip):
        sequences += [_named(run) for run in _runs(list(clip), step)]
    return VidSplit(tuple(sequences), classes, len(listed) - len(kept))


def as_arrays(boxes: list[tuple[float, ...]], labels: list[int]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes (K, 4) and labels (K,) of a frame."""
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64)


def _runs(clip: list[VidFrame], step: int) -> Iterator[list[VidFrame]]:
    """The frames of a clip, cut where their numbers jump."""
    cuts = [t for t, (a, b) in enumerate(pairwise(clip), 1) if b.number - a.number > step]
    for start, stop in pairwise([0, *cuts, len(clip)]):
        yield clip[start:stop]


def _named(run: list[VidFrame]) -> VidSequence:
    return VidSequence(f"{run[0].clip}:{run[0].number}-{run[-1].number}", tuple(run))


def _counted(images: Iterator[Tensor], bar: tqdm) -> Iterator[Tensor]:
    for image_HWC in images:
        yield image_HWC
        bar.update()
