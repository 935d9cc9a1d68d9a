"""What `tests/reliability/fuzz.py`, and reading beside it, found: each ended in a traceback once, now in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from envs.vid import read_coco_video, read_official, read_published
from envs.vivit.videos import ListedVideos
from eventful.errors import UserError
from train.config import load_config
from train.evaluation.results_file import read_finished
from train.train_config import TrainConfig

COCO = {
    "videos": [{"id": 1, "name": "a"}],
    "images": [{"id": 1, "file_name": "0.jpg", "video_id": 1, "frame_id": 0}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
}


def coco(part: str, **changes: object) -> str:
    return json.dumps(COCO | {part: [COCO[part][0] | changes]})


CHANGED = {
    "id of a video": (coco("videos", id=[1]), "number 0 of videos has no number and no text as its id"),
    "id of an image": (coco("images", id={"a": 1}), "number 0 of images has no number and no text as its id"),
    "id of a category": (coco("categories", id=None), "number 0 of categories has no number and no text"),
    "video of an image": (coco("images", video_id=[1]), r"there is no video with id \[1\]"),
    "image of a box": (coco("annotations", image_id=[1]), r"there is no image with id \[1\]"),
    "category of a box": (coco("annotations", category_id={}), "there is no class with category_id {}"),
    "NaN": (coco("annotations", bbox=[float("nan"), 2, 3, 4]), "bbox must be"),
    "a number beyond floats": (coco("annotations", bbox=[10**400, 2, 3, 4]), "bbox must be"),
    "depth": ("[" * 100_000, "is no JSON"),
}


@pytest.mark.parametrize("kind", CHANGED)
def test_annotations_as_coco_writes_them(tmp_path: Path, kind: str) -> None:
    text, said = CHANGED[kind]
    (tmp_path / "a.json").write_text(text)
    (tmp_path / "0.jpg").touch()
    with pytest.raises(UserError, match=said):
        read_coco_video(tmp_path / "a.json")


def test_ids_of_published_annotations(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    content = {"images": [{"id": [1], "file_name": "a_0_0.JPEG"}], "annotations": []}
    (tmp_path / "annotations" / "vid_val.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="image 0: its id is no number and no text"):
        read_published(tmp_path)


@pytest.mark.parametrize("value", ["nan", "inf", "1e400", "-1e12"])
def test_boxes_of_official_annotations_are_finite(tmp_path: Path, value: str) -> None:
    for kind, name, text in (
        ("ImageSets", "val.txt", "a/000000 1\n"),
        ("Data", "val/a/000000.JPEG", ""),
        ("Annotations", "val/a/000000.xml", XML.replace("VALUE", value)),
    ):
        path = tmp_path / kind / "VID" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with pytest.raises(UserError, match=r"000000\.xml: .* is no bndbox"):
        read_official(tmp_path)


XML = """<annotation><object><name>n02084071</name>
<bndbox><xmin>VALUE</xmin><ymin>1</ymin><xmax>9</xmax><ymax>8</ymax></bndbox></object></annotation>"""


def listed(path: Path) -> object:
    return ListedVideos(str(path)).videos("train")


def config(path: Path) -> object:
    return load_config(TrainConfig, [str(path)])


@pytest.mark.parametrize(
    ("name", "content", "read", "said"),
    [
        ("a.csv", b"\x80", listed, r"table .*a\.csv cannot be read: .*utf-8"),
        ("a.csv", b"video,label,split\na,0,rain\n", listed, r"has no split 'train' \(it has: rain\)"),
        ("a.csv", b"video,label,split\na," + b"9" * 5000 + b",train\n", listed, "label must be the number of a class"),
        ("a.csv", b"video,label,split\na,0,rain\na,0\n", listed, r"a\.csv, line 3: it has not as many values as"),
        ("a.csv", b"label,split,video\n0,train\n", listed, r"a\.csv, line 2: it has not as many values as"),
        ("a.csv", b"video,label,split\na,0,train,b\n", listed, r"a\.csv, line 2: it has not as many values as"),
        ("results.jsonl", b"\x80", lambda path: read_finished(path.parent), r"results\.jsonl is damaged"),
        ("a.yaml", b"steps: " + b"9" * 5000, config, "is not valid YAML: Exceeds the limit"),
    ],
)
def test_other_files(tmp_path: Path, name: str, content: bytes, read: Callable[[Path], object], said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        read(tmp_path / name)
