"""The boxes of annotations as COCO writes them: `image_id`, `category_id`, `bbox` as x, y, width, height."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from envs.vid.sequences import as_arrays
from eventful.errors import UserError

FAR = 1e9
"""Pixels, beyond any picture. NaN is not below it either."""


class CocoBoxes:
    """Boxes by image.

    Args:
        annotations: COCO's annotations.
        labels: Label of each category id.
        images: Ids of all images.
        source: File that they are from, for messages.

    Raises:
        UserError: If an annotation lacks something, is of an image or a category that there is not, or marks a crowd:
            the metric has no regions in which detections are ignored.
    """

    def __init__(self, annotations: Sequence[Any], labels: Mapping[Any, int], images: set[Any], source: Path) -> None:
        self._rows: dict[Any, list[tuple[tuple[float, ...], int]]] = defaultdict(list)
        for number, row in enumerate(annotations):
            where = f"{source}, annotation {number}"
            if not isinstance(row, dict):
                raise UserError(f"{where} is no object")
            image, category = row.get("image_id"), row.get("category_id")
            if not is_id(image) or image not in images:
                raise UserError(f"{where}: there is no image with id {image!r}")
            if not is_id(category) or category not in labels:
                raise UserError(f"{where}: there is no class with category_id {category!r} (there are {_span(labels)})")
            if row.get("iscrowd"):
                raise UserError(f"{where} marks a crowd (iscrowd); regions to be ignored are not supported")
            self._rows[image].append((_corners(row.get("bbox"), where), labels[category]))

    def of_image(self, image: Any) -> tuple[Any, Any]:
        """Boxes (K, 4) xyxy float32 and labels (K,) int64 of an image."""
        rows = self._rows.get(image, [])
        return as_arrays([box for box, _ in rows], [label for _, label in rows])


def is_id(value: Any) -> bool:
    """Whether something can be an id: a number or a text."""
    return isinstance(value, int | str)


def _corners(box: Any, where: str) -> tuple[float, ...]:
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) and abs(v) < FAR for v in box)
    if not numbers or min(box[2:]) < 0:
        raise UserError(f"{where}: bbox must be [x, y, width, height], got {box!r}")
    x, y, width, height = box
    return x, y, x + width, y + height


def _span(labels: Mapping[Any, int]) -> str:
    ids = list(labels)
    return ", ".join(map(str, ids)) if len(ids) < 8 else f"{ids[0]} to {ids[-1]}"
