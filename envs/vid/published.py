"""ImageNet VID as the authors of Eventful Transformers store it.

Either as their archive unpacks, or as their code moves it:

    annotations/vid_val.json        vid_val/labels.json
    vid_val/<...>_<clip>_<frame>.JPEG    vid_val/frames/<clip>/<frame>.jpg

The JSON is COCO's: `images` with `id` and `file_name`, whose last two parts are clip and frame, and `annotations` with
`category_id` from 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from envs.vid.classes import VID_CLASSES, ClassList
from envs.vid.coco_boxes import CocoBoxes, is_id
from envs.vid.files import Folder, inside, json_of
from envs.vid.sequences import Empty, VidFrame, VidSplit, make_split
from eventful.errors import UserError

_IMAGES_OF = {"vid_minival": "vid_val"}
"""Splits whose images lie with those of another."""


def read_published(
    root: str | Path, split: str = "vid_val", empty: Empty = "keep", classes: ClassList = VID_CLASSES, step: int = 1
) -> VidSplit:
    """Reads the annotations of a split; images are read when they are asked for.

    Args:
        root: Folder with `<split>/labels.json` and `<split>/frames`, or with `annotations/<split>.json` and `<split>`.
        split: Name of the split, such as `vid_val`.
        empty: Whether frames without objects are kept, or dropped.
        classes: Classes, in the order of their labels.
        step: Largest step from one frame number to the next of the same sequence.

    Raises:
        UserError: If a file is missing or damaged, or names a class that there is not; the message says which.
    """
    root = Path(root)
    moved, flat = root / split / "labels.json", root / "annotations" / f"{split}.json"
    if moved.is_file():
        return make_split(_frames(moved, _moved(moved), classes), classes, empty, step, moved)
    if flat.is_file():
        images = Folder(root / _IMAGES_OF.get(split, split))
        return make_split(_frames(flat, _flat(images, flat), classes), classes, empty, step, flat)
    raise UserError(f"neither {moved} nor {flat} is there: one of them should list images and annotations")


_Find = Callable[[str, str, str], Path]
"""From a file's name, its clip and its frame to where it is."""


def _moved(listed: Path) -> _Find:
    folders: dict[str, Folder] = {}

    def find(name: str, clip: str, frame: str) -> Path:
        folder = folders.setdefault(clip, Folder(listed.parent / "frames" / clip))
        return folder.file(f"{frame}.jpg", f"{listed} lists it as {name}")

    return find


def _flat(folder: Folder, listed: Path) -> _Find:
    return lambda name, clip, frame: folder.file(name, f"{listed} lists it")


def _frames(listed: Path, find: _Find, classes: ClassList) -> Iterator[VidFrame]:
    content = json_of(listed, "images", "annotations")
    images: list[Any] = content["images"]
    for number, image in enumerate(images):
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str) or "id" not in image:
            raise UserError(f"{listed}, image {number} has no id and file_name")
        if not is_id(image["id"]):
            raise UserError(f"{listed}, image {number}: its id is no number and no text")
        inside(image["file_name"], f"{listed}, image {number}")
    labels = {label + 1: label for label in range(len(classes))}
    boxes = CocoBoxes(content["annotations"], labels, {image["id"] for image in images}, listed)
    for image in images:
        name = Path(image["file_name"])
        _, *parts = f"_{name.stem}".rsplit("_", 2)
        if len(parts) != 2 or not parts[1].isdecimal():
            raise UserError(f"{listed}: a file_name ends in _<clip>_<frame>, got {name}")
        clip, frame = parts
        yield VidFrame(find(name.name, clip, frame), clip, int(frame), *boxes.of_image(image["id"]))
