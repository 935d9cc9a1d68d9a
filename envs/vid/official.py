"""ImageNet VID as it is distributed (ILSVRC2015, Russakovsky et al. 2015).

    ImageSets/VID/val.txt                                  <clip>/<frame> <number> on each line
    Data/VID/val/<clip>/<frame>.JPEG
    Annotations/VID/val/<clip>/<frame>.xml                 the objects, with synset ids for classes

Corners of boxes are taken as they stand, without adding a pixel to widths and heights.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from envs.vid.classes import VID_CLASSES, ClassList
from envs.vid.coco_boxes import FAR
from envs.vid.files import Folder, inside, lines_of
from envs.vid.sequences import Empty, VidFrame, VidSplit, as_arrays, make_split
from eventful.cli import one_line
from eventful.console.output import progress
from eventful.errors import UserError

SUFFIX = ".JPEG"


def read_official(
    root: str | Path, split: str = "val", empty: Empty = "keep", classes: ClassList = VID_CLASSES, step: int = 1
) -> VidSplit:
    """Reads the lists and annotations of a split; images are read when they are asked for.

    Args:
        root: Folder ILSVRC2015, with `Data`, `Annotations` and `ImageSets`.
        split: Name of the list in `ImageSets/VID`.
        empty: Whether frames without objects are kept, or dropped.
        classes: Classes, in the order of their labels.
        step: Largest step from one frame number to the next of the same sequence.

    Raises:
        UserError: If a file is missing or damaged, or names a class that there is not; the message says which.
    """
    root = Path(root)
    listed = root / "ImageSets" / "VID" / f"{split}.txt"
    return make_split(_frames(root, split, listed, classes), classes, empty, step, listed)


def _frames(root: Path, split: str, listed: Path, classes: ClassList) -> Iterator[VidFrame]:
    folders: dict[str, tuple[Folder, Folder]] = {}
    lines = lines_of(listed, "a frame on each line, <clip>/<frame> <number>")
    for number, line in enumerate(progress(lines, f"reading {split}", unit="frame", leave=False), 1):
        clip, _, frame = line.split()[0].rpartition("/") if line.strip() else ("", "", "")
        if not clip or not frame.isdecimal():
            raise UserError(f"{listed}, line {number}: a line is <clip>/<frame> <number>, got {line.strip()!r}")
        if clip not in folders:
            inside(clip, f"{listed}, line {number}")
            folders[clip] = (Folder(root / "Data/VID" / split / clip), Folder(root / "Annotations/VID" / split / clip))
        images, annotations = folders[clip]
        path = images.file(frame + SUFFIX, f"{listed} lists it")
        boxes_K4, labels_K = _objects(annotations.file(f"{frame}.xml", f"it has the boxes of {path}"), classes)
        yield VidFrame(path, clip, int(frame), boxes_K4, labels_K)


def _objects(path: Path, classes: ClassList) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes and labels of one frame's annotation."""
    boxes, labels = [], []
    try:
        for found in ElementTree.parse(path).getroot().iter("object"):
            labels.append(classes.label(found.findtext("name", "").strip(), path))
            box = tuple(float(found.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax"))
            if not all(abs(value) < FAR for value in box):
                raise UserError(f"annotation {path}: {box} is no bndbox")
            boxes.append(box)
    except (ElementTree.ParseError, LookupError, OSError) as error:
        raise UserError(f"annotation {path} cannot be read: {one_line(error)}") from error
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"annotation {path}: an object lacks a number of its bndbox") from error
    return as_arrays(boxes, labels)
