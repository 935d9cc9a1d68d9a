"""Tiny trees in the layouts in which ImageNet VID is kept.

A clip is a dictionary from frame numbers to the frame's objects, (synset id, x1, y1, x2, y2).
"""

import json

import numpy as np
import pytest
from PIL import Image

SYNSETS = {"n02691156": 1, "n02084071": 9, "n02391049": 30}
DOG = ("n02084071", 2, 3, 20, 13)
ZEBRA = ("n02391049", 0, 0, 31, 23)

CLIPS = {
    "ILSVRC2015_val_00000000": {0: [DOG], 1: [DOG, ZEBRA], 2: [], 3: [ZEBRA]},
    "ILSVRC2015_val_00000001": {0: [ZEBRA], 1: [ZEBRA], 5: [DOG]},
    "ILSVRC2015_val_00000002": {0: [], 1: []},
}


def draw(path, number, size=(32, 24)):
    """A frame whose colour tells its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), number * 10, np.uint8)).save(path, "JPEG")


def xml_of(objects):
    parts = [
        f"<object><trackid>{k}</trackid><name>{name}</name><bndbox><xmax>{x2}</xmax><xmin>{x1}</xmin><ymax>{y2}</ymax>"
        f"<ymin>{y1}</ymin></bndbox><occluded>0</occluded><generated>0</generated></object>"
        for k, (name, x1, y1, x2, y2) in enumerate(objects)
    ]
    size = "<size><width>32</width><height>24</height></size>"
    return f"<annotation><folder>f</folder><filename>f</filename>{size}{''.join(parts)}</annotation>"


@pytest.fixture
def official(tmp_path):
    """`Data`, `Annotations` and `ImageSets` of the official layout."""
    root, lines = tmp_path / "ILSVRC2015", []
    for clip, frames in CLIPS.items():
        for number, objects in frames.items():
            draw(root / f"Data/VID/val/{clip}/{number:06d}.JPEG", number)
            annotation = root / f"Annotations/VID/val/{clip}/{number:06d}.xml"
            annotation.parent.mkdir(parents=True, exist_ok=True)
            annotation.write_text(xml_of(objects))
            lines.append(f"{clip}/{number:06d} {len(lines) + 1}")
    (root / "ImageSets/VID").mkdir(parents=True)
    (root / "ImageSets/VID/val.txt").write_text("\n".join(lines) + "\n")
    return root


def coco_of(name_of):
    images, annotations = [], []
    for clip, frames in CLIPS.items():
        for number, objects in frames.items():
            images.append({"id": len(images) + 1, "file_name": name_of(clip, number)})
            for synset, x1, y1, x2, y2 in objects:
                box = [x1, y1, x2 - x1, y2 - y1]
                row = {"id": len(annotations) + 1, "image_id": len(images), "category_id": SYNSETS[synset], "bbox": box}
                annotations.append(row)
    return {"images": images, "annotations": annotations}


def frames_of_all():
    return [(clip, number) for clip, frames in CLIPS.items() for number in frames]


@pytest.fixture(params=["flat", "moved"])
def published(tmp_path, request):
    """The authors' archive, as it unpacks or as their code moves it."""
    root = tmp_path / "vid_data"
    content = json.dumps(coco_of(lambda clip, number: f"{clip}_{number:06d}.JPEG"))
    moved = request.param == "moved"
    listed = root / ("vid_val/labels.json" if moved else "annotations/vid_val.json")
    listed.parent.mkdir(parents=True)
    listed.write_text(content)
    for clip, number in frames_of_all():
        place = f"frames/{clip.split('_')[-1]}/{number:06d}.jpg" if moved else f"{clip}_{number:06d}.JPEG"
        draw(root / "vid_val" / place, number)
    return root


@pytest.fixture
def coco_video(tmp_path):
    """A set of somebody's own, with category ids of its own."""
    content = coco_of(lambda clip, number: f"{clip}/{number:04d}.jpg")
    clips = list(CLIPS)
    for image, (clip, number) in zip(content["images"], frames_of_all(), strict=True):
        image |= {"video_id": 7 + clips.index(clip), "frame_id": number}
        draw(tmp_path / "own" / image["file_name"], number)
    content["videos"] = [{"id": 7 + k, "name": clip} for k, clip in enumerate(clips)]
    content["categories"] = [{"id": 30, "name": "zebra"}, {"id": 9, "name": "dog"}, {"id": 1, "name": "plane"}]
    path = tmp_path / "own/annotations.json"
    path.write_text(json.dumps(content))
    return path
