"""Readers of files from elsewhere, and whole files for each of them."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image

import policies
from envs.actions import EpicKitchens, Kinetics400
from envs.backbones import read_weights
from envs.convert.arrays import read_arrays
from envs.vid.coco_video import read_coco_video
from envs.vid.official import read_official
from envs.vivit.videos import ListedVideos
from eventful.video import read_frames
from train.config import load_config
from train.evaluation.results_file import read_finished
from train.loop import history
from train.train_config import TrainConfig


@dataclass(frozen=True)
class Target:
    """A reader of files.

    Attributes:
        name: Name of the file that it reads, in a folder of its own.
        whole: Contents of whole files.
        read: Reads the folder.
    """

    name: str
    whole: Sequence[bytes]
    read: Callable[[Path], object]


def pictures() -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image, found = Image.fromarray(noise), {}
    for suffix in ("png", "jpeg", "gif", "webp", "tiff", "bmp"):
        to = io.BytesIO()
        image.save(to, suffix)
        found[suffix] = to.getvalue()
    return found


def checkpoint(part: str) -> bytes:
    with tempfile.TemporaryDirectory() as place:
        policies.LearnedPolicy(1, 4, hidden=2, projections=0).save_pretrained(place)
        return (Path(place) / part).read_bytes()


def beside_a_whole(part: str) -> Callable[[Path], object]:
    """Loads a checkpoint one of whose files is the one in question."""

    def read(folder: Path) -> object:
        for other in {"config.json", "model.safetensors"} - {part}:
            (folder / other).write_bytes(WHOLE[other])
        return policies.load(folder)

    return read


WHOLE = {part: checkpoint(part) for part in ("config.json", "model.safetensors")}

COCO = {
    "videos": [{"id": 1, "name": "a"}],
    "images": [{"id": 1, "file_name": "a/0.jpg", "video_id": 1, "frame_id": 0, "width": 16, "height": 12}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
}
XML = b"""<annotation><folder>a</folder><filename>000000</filename><size><width>16</width><height>12</height></size>
<object><trackid>0</trackid><name>n02084071</name><bndbox><xmax>9</xmax><xmin>1</xmin><ymax>8</ymax><ymin>2</ymin></bndbox>
</object></annotation>"""
EPIC = b"""narration_id,participant_id,video_id,start_timestamp,stop_timestamp,start_frame,stop_frame,verb_class
P01_0,P01,P01_01,00:00:00.00,00:00:02.00,1,120,3
"""
KINETICS = b"label,youtube_id,time_start,time_end,split\nabseiling,abcdefghijk,3,13,val\n"


def weights() -> list[bytes]:
    tensors = {"a.weight": torch.zeros(2, 2), "b": torch.ones(3)}
    to = io.BytesIO()
    torch.save({"state_dict": tensors}, to)
    return [safetensors.torch.save(tensors), to.getvalue()]


def of_a_policy(folder: Path) -> object:
    return load_config(TrainConfig, [str(folder / "a.yaml")])


def official(folder: Path) -> object:
    for kind, file, content in (
        ("ImageSets", "val.txt", b"a/000000 1\n"),
        ("Data", "val/a/000000.JPEG", b""),
        ("Annotations", "val/a/000000.xml", (folder / "a.xml").read_bytes()),
    ):
        path = folder / kind / "VID" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return read_official(folder, "val")


def in_place(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Puts the file where a set expects it."""

    def read(folder: Path) -> object:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((folder / "a").read_bytes())
        return make(folder)

    return read


def all_frames(folder: Path) -> object:
    path = next(folder.iterdir())
    return [frame.shape for frame in read_frames(path)]


YAML = [b"steps: 3\nlr: 1e-3\nobjective: {fidelity: 1.0}\npolicy_budgets: [0.1, 0.3]\ntask_options: {video: a.mp4}\n"]
LINE = {"step": 0, "minutes": 0.1, "points": [{"policy": "learned", "budget": 0.1, "share": 0.1, "reward": -1.0}]}
RESULTS = b'{"format": 1, "fingerprint": "a", "setting": {}}\n{"kind": "run"}\n'

TARGETS: Mapping[str, Target] = {
    "config files": Target("a.yaml", YAML, of_a_policy),
    "checkpoints, settings": Target("config.json", [WHOLE["config.json"]], beside_a_whole("config.json")),
    "checkpoints, tensors": Target(
        "model.safetensors", [WHOLE["model.safetensors"]], beside_a_whole("model.safetensors")
    ),
    "weights": Target("a.pth", weights(), lambda folder: read_weights(folder / "a.pth")),
    "weights, .safetensors": Target("a.safetensors", weights(), lambda folder: read_weights(folder / "a.safetensors")),
    "checkpoints to convert": Target("a.pth", weights(), lambda folder: read_arrays(folder / "a.pth")),
    "annotations, COCO": Target(
        "a.json", [json.dumps(COCO).encode()], lambda folder: read_coco_video(folder / "a.json")
    ),
    "annotations, ImageNet VID": Target("a.xml", [XML], official),
    "tables, listed": Target(
        "a.csv",
        [b"video,label,split\na.mp4,0,train\n"],
        lambda folder: ListedVideos(str(folder / "a.csv")).videos("train"),
    ),
    "tables, EPIC": Target(
        "a", [EPIC], in_place("EPIC_100_train.csv", lambda folder: EpicKitchens(folder).videos("train"))
    ),
    "tables, Kinetics": Target("a", [KINETICS], in_place("val.csv", lambda folder: Kinetics400(folder).videos("val"))),
    "images": Target("a.png", list(pictures().values()), all_frames),
    "histories": Target("history.jsonl", [json.dumps(LINE).encode() + b"\n"], history.read),
    "results": Target(
        "results.jsonl", [b'{"format": 1, "fingerprint": "a", "setting": {}}\n{"kind": "run"}\n'], read_finished
    ),
}
