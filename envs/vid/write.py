"""Writes clips with boxes in the official layout of ImageNet VID, which `envs.vid.read_official` reads, among others.

Shape suffixes: K objects of a frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from envs.task import Clip, Target
from envs.vid.classes import ClassList
from envs.vid.official import SUFFIX
from eventful.errors import UserError

_QUALITY = 95


def write_official(root: str | Path, split: str, clips: Iterable[Clip], classes: ClassList) -> int:
    """Writes clips as a split; the list of frames comes last, so that a split with a list is complete.

    Args:
        root: Folder to write `Data`, `Annotations` and `ImageSets` into.
        split: Name of the split.
        clips: Clips with a target for each frame; coordinates of boxes are rounded to whole pixels.
        classes: Classes of the labels.

    Returns:
        Number of frames.

    Raises:
        UserError: If the split is there already, or a clip lacks targets.
        OSError: If a file cannot be written.
    """
    root = Path(root)
    listed = root / "ImageSets" / "VID" / f"{split}.txt"
    if listed.exists():
        raise UserError(f"{listed} exists: the folder has a split {split} already")
    lines: list[str] = []
    for clip in clips:
        if len(clip.targets) != len(clip):
            raise UserError(f"clip {clip.name} has {len(clip)} frames and {len(clip.targets)} targets")
        images, annotations = (root / kind / "VID" / split / clip.name for kind in ("Data", "Annotations"))
        images.mkdir(parents=True, exist_ok=True)
        annotations.mkdir(parents=True, exist_ok=True)
        for t, (frame_HWC, target) in enumerate(zip(clip.frames_THWC, clip.targets, strict=True)):
            Image.fromarray(frame_HWC.numpy()).save(images / f"{t:06d}{SUFFIX}", "JPEG", quality=_QUALITY)
            tree = _annotation(clip.name, t, frame_HWC.shape, target, classes.ids)
            ElementTree.ElementTree(tree).write(annotations / f"{t:06d}.xml")
            lines.append(f"{clip.name}/{t:06d} {len(lines) + 1}")
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("".join(f"{line}\n" for line in lines))
    return len(lines)


def _annotation(clip: str, t: int, size: tuple[int, ...], target: Target, ids: Sequence[str]) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    _fill(root, folder=clip, filename=f"{t:06d}")
    _fill(ElementTree.SubElement(root, "size"), width=size[1], height=size[0])
    boxes_K4 = np.rint(target["boxes"].numpy()).astype(int)
    for number, (box_4, label) in enumerate(zip(boxes_K4, target["labels"].tolist(), strict=True)):
        thing = ElementTree.SubElement(root, "object")
        _fill(thing, trackid=number, name=ids[label])
        xmin, ymin, xmax, ymax = box_4
        _fill(ElementTree.SubElement(thing, "bndbox"), xmax=xmax, xmin=xmin, ymax=ymax, ymin=ymin)
        _fill(thing, occluded=0, generated=0)
    return root


def _fill(parent: ElementTree.Element, **texts: object) -> None:
    for name, text in texts.items():
        ElementTree.SubElement(parent, name).text = str(text)
