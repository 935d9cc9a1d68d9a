"""Videos of your own, annotated as COCO's images are (the form that MMTracking calls CocoVID).

videos       id, name
images       id, file_name (relative to the folder of images), video_id, frame_id
annotations  image_id, category_id, bbox [x, y, width, height]
categories   id, name
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from envs.vid.classes import ClassList
from envs.vid.coco_boxes import CocoBoxes, is_id
from envs.vid.files import Folder, inside, json_of
from envs.vid.sequences import Empty, VidFrame, VidSplit, make_split
from eventful.errors import UserError

_FIELDS = {
    "videos": ("id", "name"),
    "images": ("id", "file_name", "video_id", "frame_id"),
    "categories": ("id", "name"),
}


def read_coco_video(
    annotations: str | Path, images: str | Path | None = None, empty: Empty = "keep", step: int = 1
) -> VidSplit:
    """Reads a set of annotated videos; images are read when they are asked for.

    Labels count the categories from 0 in the order of their ids.

    Args:
        annotations: JSON file.
        images: Folder of the images; that of the JSON file if None.
        empty: Whether frames without objects are kept, or dropped.
        step: Largest step from one frame_id to the next of the same sequence: 5 where every fifth frame is annotated.

    Raises:
        UserError: If a file is missing or damaged, or names a class that there is not; the message says which.
    """
    source = Path(annotations)
    content = json_of(source, *_FIELDS, "annotations")
    for part, fields in _FIELDS.items():
        _check(content[part], part, fields, source)
    categories = sorted(content["categories"], key=lambda category: (isinstance(category["id"], str), category["id"]))
    classes = ClassList(tuple(str(category["name"]) for category in categories))
    labels = {category["id"]: label for label, category in enumerate(categories)}
    boxes = CocoBoxes(content["annotations"], labels, {image["id"] for image in content["images"]}, source)
    frames = _frames(content, boxes, source.parent if images is None else Path(images), source)
    return make_split(frames, classes, empty, step, source)


def _frames(content: dict[str, Any], boxes: CocoBoxes, root: Path, source: Path) -> Iterator[VidFrame]:
    names = {video["id"]: str(video["name"]) for video in content["videos"]}
    if len(set(names.values())) < len(names):
        raise UserError(f"{source}: two videos have the same name")
    folders: dict[PurePath, Folder] = {}
    for image in content["images"]:
        if not is_id(image["video_id"]) or image["video_id"] not in names:
            raise UserError(f"{source}, image {image['id']}: there is no video with id {image['video_id']!r}")
        if type(image["frame_id"]) is not int:
            raise UserError(
                f"{source}, image {image['id']}: frame_id must be a whole number, got {image['frame_id']!r}"
            )
        place = root / inside(str(image["file_name"]), f"{source}, image {image['id']}")
        path = folders.setdefault(place.parent, Folder(place.parent)).file(place.name, f"{source} lists it")
        yield VidFrame(path, names[image["video_id"]], image["frame_id"], *boxes.of_image(image["id"]))


def _check(rows: list[Any], part: str, fields: tuple[str, ...], source: Path) -> None:
    seen = set()
    for number, row in enumerate(rows):
        missing = [field for field in fields if not isinstance(row, dict) or field not in row]
        if missing:
            raise UserError(f"{source}: number {number} of {part} has no {missing[0]}")
        if not is_id(row["id"]):
            raise UserError(f"{source}: number {number} of {part} has no number and no text as its id: {row['id']!r}")
        if row["id"] in seen:
            raise UserError(f"{source}: {part} has id {row['id']!r} twice")
        seen.add(row["id"])
