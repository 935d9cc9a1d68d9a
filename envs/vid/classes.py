"""The classes of a set of videos, and the names by which its annotations call them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from eventful.errors import UserError


@dataclass(frozen=True)
class ClassList:
    """Classes in the order of their labels.

    Attributes:
        names: Name of each class, for people.
        ids: What annotations call each class; the names themselves if not given.

    Raises:
        UserError: If names or ids repeat, or there are not as many of the one as of the other.
    """

    names: Sequence[str]
    ids: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.ids:
            object.__setattr__(self, "ids", tuple(self.names))
        if len(self.ids) != len(self.names):
            raise UserError(f"{len(self.names)} classes need as many ids, got {len(self.ids)}")
        for what in (self.names, self.ids):
            twice = sorted({name for name in what if what.count(name) > 1})
            if twice:
                raise UserError(f"class {twice[0]!r} is listed twice")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _label_of(self) -> dict[str, int]:
        return {name: label for label, name in enumerate(self.ids)}

    def label(self, class_id: str, where: object) -> int:
        """The label of a class, from 0.

        Args:
            class_id: What the annotation calls it.
            where: File that says so, for the message.

        Raises:
            UserError: If there is no such class.
        """
        if class_id not in self._label_of:
            known = ", ".join(map(str, self.ids[:4])) + (", ..." if len(self.ids) > 4 else "")
            raise UserError(f"{where}: there is no class {class_id!r}; the {len(self)} classes are {known}")
        return self._label_of[class_id]


_VID = {
    "airplane": "n02691156",
    "antelope": "n02419796",
    "bear": "n02131653",
    "bicycle": "n02834778",
    "bird": "n01503061",
    "bus": "n02924116",
    "car": "n02958343",
    "cattle": "n02402425",
    "dog": "n02084071",
    "domestic_cat": "n02121808",
    "elephant": "n02503517",
    "fox": "n02118333",
    "giant_panda": "n02510455",
    "hamster": "n02342885",
    "horse": "n02374451",
    "lion": "n02129165",
    "lizard": "n01674464",
    "monkey": "n02484322",
    "motorcycle": "n03790512",
    "rabbit": "n02324045",
    "red_panda": "n02509815",
    "sheep": "n02411705",
    "snake": "n01726692",
    "squirrel": "n02355227",
    "tiger": "n02129604",
    "train": "n04468005",
    "turtle": "n01662784",
    "watercraft": "n04530566",
    "whale": "n02062744",
    "zebra": "n02391049",
}

VID_CLASSES = ClassList(tuple(_VID), tuple(_VID.values()))
"""The 30 classes of ImageNet VID with their synset ids, in the order of the published detector's labels."""
