"""Where a set of labelled videos lies, and how: one description for the task and for the paper's tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from envs.vid.classes import VID_CLASSES, ClassList
from envs.vid.coco_video import read_coco_video
from envs.vid.official import read_official
from envs.vid.published import read_published
from envs.vid.sequences import Empty, VidSplit
from eventful.errors import UserError

Layout = Literal["official", "published", "coco"]


@dataclass(frozen=True)
class LabelledVideos:
    """A set of videos with boxes.

    Attributes:
        root: Folder of the set. Layout `coco`: that of `<split>.json`, to which names of images are relative.
        layout: `official` (ILSVRC2015), `published` (as the authors of Eventful Transformers store it) or `coco`.
        classes: Classes, in the order of their labels.
        empty: Whether frames without objects are kept, or dropped.
        step: Largest step from one frame number to the next of the same sequence.

    Raises:
        UserError: If there is no such layout.
    """

    root: Path
    layout: Layout = "official"
    classes: ClassList = VID_CLASSES
    empty: Empty = "keep"
    step: int = 1

    def __post_init__(self) -> None:
        if self.layout not in get_args(Layout):
            raise UserError(f"layout must be one of {', '.join(get_args(Layout))}, got {self.layout!r}")

    def split(self, name: str) -> VidSplit:
        """The annotations of a split.

        Raises:
            UserError: If a file is missing or damaged, or the set has other classes.
        """
        if self.layout == "official":
            return read_official(self.root, name, self.empty, self.classes, self.step)
        if self.layout == "published":
            return read_published(self.root, name, self.empty, self.classes, self.step)
        split = read_coco_video(self.root / f"{name}.json", self.root, self.empty, self.step)
        if tuple(split.classes.names) != tuple(self.classes.names):
            raise UserError(
                f"{self.root / name}.json has the classes [{', '.join(split.classes.names)}], and the detector is to "
                f"know [{', '.join(self.classes.names)}]: give classes"
            )
        return split


def class_list(names: Sequence[str] | None) -> ClassList:
    """Classes that annotations call by their names; those of ImageNet VID, by their synset ids, if None."""
    return VID_CLASSES if names is None else ClassList(tuple(names))
