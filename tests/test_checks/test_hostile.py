"""Folders and files made to do harm: nothing of them is run, leads elsewhere, or takes more memory than is said.

Each is read in a child process that is watched by an audit hook, and whose memory is limited.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from watched import Pwn, harmless

import policies
from envs.actions import EpicKitchens, Kinetics400
from envs.backbones import read_weights
from envs.convert.arrays import read_arrays
from envs.vid import read_coco_video, read_official, read_published
from eventful import cli
from eventful.infer import command as infer
from eventful.video import read_frames
from policies import LearnedPolicy
from train.config import load_config
from train.train_config import TrainConfig


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """What must not be read or written."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "secret").write_text("root:x:0:0")
    Image.new("RGB", (16, 12), (255, 0, 0)).save(folder / "secret.png")
    Image.new("RGB", (16, 12), (255, 0, 0)).save(folder / "000000.jpg")
    return folder


def checkpoint(folder: Path, **settings: Any) -> Path:
    provenance = {"task": {"name": "distill", "model": "test_vit", **settings}}
    LearnedPolicy(1, 64, hidden=4, projections=0, provenance=provenance).save_pretrained(folder)
    return folder


def with_settings(folder: Path, **settings: Any) -> Path:
    config = json.loads((checkpoint(folder) / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    return folder


@pytest.mark.parametrize("name", ["weights", "video", "cache", "head", "model"])
def test_a_policy_folder_that_names_files_of_mine(tmp_path: Path, elsewhere: Path, name: str) -> None:
    value = {"head": f"{elsewhere}/secret:run", "model": f"hf:{elsewhere}"}.get(name, str(elsewhere / "secret"))
    folder = checkpoint(tmp_path / "policy", **{name: value})
    film = tmp_path / "frames"
    film.mkdir()
    Image.new("RGB", (64, 64)).save(film / "0.png")
    given = ["--weights", str(tmp_path / "none.pth")] if name != "weights" else []
    argv = [str(film), "--policy", str(folder), *given, "--device", "cpu"]
    harmless(lambda: infer._main(argv), tmp_path, elsewhere)


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden": 2**40},
        {"gates": 10**9},
        {"dim": 10**9, "hidden": 10**6},
        {"budgets": [k / 10**6 for k in range(1, 10**6)]},
        {"class": "os:system"},
        {"provenance": {"task": {"name": "os:system"}}},
        {"provenance": {"policy": "os:system"}},
    ],
)
def test_a_policy_folder_that_is_too_large_or_names_code(tmp_path: Path, elsewhere: Path, settings: Any) -> None:
    folder = with_settings(tmp_path / "policy", **settings)
    harmless(lambda: _as_user(lambda: policies.load(folder)), tmp_path, elsewhere)


def _as_user(load: Callable[[], object]) -> None:
    with cli.user_input("policy"):
        load()


def _links(folder: Path, elsewhere: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/dev/zero")


def _pickled(folder: Path, elsewhere: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Pwn(elsewhere / "pwned")))


def _huge_header(folder: Path, elsewhere: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")


def _huge_tensor(folder: Path, elsewhere: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


@pytest.mark.parametrize("change", [_links, _pickled, _huge_header, _huge_tensor])
def test_a_policy_folder_with_another_kind_of_tensors(tmp_path: Path, elsewhere: Path, change: Any) -> None:
    folder = checkpoint(tmp_path / "policy")
    change(folder, elsewhere)
    harmless(lambda: _as_user(lambda: policies.load(folder)), tmp_path, elsewhere)


def _torch_archive(path: Path, elsewhere: Path) -> None:
    torch.save({"state_dict": Pwn(elsewhere / "pwned")}, path)


def _plain_pickle(path: Path, elsewhere: Path) -> None:
    path.write_bytes(pickle.dumps({"model": Pwn(elsewhere / "pwned")}))


def _claims(path: Path, elsewhere: Path) -> None:
    _huge_tensor(path.parent, elsewhere)
    (path.parent / "model.safetensors").rename(path)


@pytest.mark.parametrize("make", [_torch_archive, _plain_pickle, _claims])
@pytest.mark.parametrize("reader", [read_weights, read_arrays])
def test_weights_files(tmp_path: Path, elsewhere: Path, make: Any, reader: Any) -> None:
    path = tmp_path / ("w.safetensors" if make is _claims else "w.pth")
    make(path, elsewhere)
    harmless(lambda: reader(path), tmp_path, elsewhere)


def png(width: int, height: int, rows: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * (3 * width + 1) * rows, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _images(folder: Path, elsewhere: Path) -> dict[str, Callable[[Path], object]]:
    return {
        "20,000 x 20,000 in a few kilobytes": lambda path: path.write_bytes(png(20_000, 20_000, 10)),
        "one pixel high": lambda path: path.write_bytes(png(2**27, 1, 0)),
        "PostScript": lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(pwned) show\n"),
        "a pipe": lambda path: os.mkfifo(path),
        "a device": lambda path: path.symlink_to("/dev/zero"),
        "a playlist": lambda path: path.write_text(f"#EXTM3U\n#EXTINF:1,\nfile://{elsewhere}/secret\n"),
        "a text": lambda path: path.write_text("root:x:0:0"),
        "a cut picture": lambda path: path.write_bytes(png(4000, 4000, 3)),
    }


@pytest.mark.parametrize("kind", list(_images(Path(), Path())))
def test_image_folders(tmp_path: Path, elsewhere: Path, kind: str) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    Image.new("RGB", (16, 12)).save(folder / "0.png")
    _images(folder, elsewhere)[kind](folder / "1.png")
    harmless(lambda: [frame.shape for frame in read_frames(folder)], tmp_path, elsewhere)


def nested(levels: int) -> str:
    """Nine names of nine names of ...: 9^levels values if all were made."""
    lines = ["task_options:", "  l0: &l0 [1,1,1,1,1,1,1,1,1]"]
    for k in range(1, levels):
        aliases = ",".join([f"*l{k - 1}"] * 9)
        lines.append(f"  l{k}: &l{k} [{aliases}]")
    return "\n".join(lines)


YAMLS = {
    "calls": "steps: !!python/object/apply:os.system ['touch ELSEWHERE/pwned']",
    "new objects": "out: !!python/object/new:subprocess.Popen [[touch, ELSEWHERE/pwned]]",
    "names": "steps: !!python/name:os.system",
    "many aliases": nested(12),
    "deep": "task_options: " + "[" * 20_000,
    "deep tables": "task_options: " + "{a: " * 5_000,
    "itself": "task_options: &a {a: *a}",
    "a number without end": "steps: " + "9" * 100_000,
    "a huge exponent": "lr: 1e999999999",
    "base 60": "steps: " + "59:" * 10_000 + "59",
    "a date": "steps: 99999-99-99",
}


@pytest.mark.parametrize("kind", YAMLS)
def test_yaml_files(tmp_path: Path, elsewhere: Path, kind: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(YAMLS[kind].replace("ELSEWHERE", str(elsewhere)))
    harmless(lambda: load_config(TrainConfig, [str(path)]), tmp_path, elsewhere)


def test_interpolations_in_yaml_are_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "seen")
    (tmp_path / "a.yaml").write_text("out: ${oc.env:SECRET}\n")
    assert load_config(TrainConfig, [str(tmp_path / "a.yaml")]).out == "${oc.env:SECRET}"


def _coco(root: Path, name: str, elsewhere: Path) -> Callable[[], object]:
    content = {
        "videos": [{"id": 1, "name": "a"}],
        "images": [{"id": 1, "file_name": name, "video_id": 1, "frame_id": 0}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [],
    }
    (root / "a.json").write_text(json.dumps(content))
    return lambda: list(read_coco_video(root / "a.json").sequences[0].images())


def _official(root: Path, name: str, elsewhere: Path) -> Callable[[], object]:
    (root / "ImageSets" / "VID").mkdir(parents=True)
    (root / "ImageSets" / "VID" / "val.txt").write_text(f"{Path(name).parent}/000000 1\n")
    return lambda: read_official(root)


def _published(root: Path, name: str, elsewhere: Path) -> Callable[[], object]:
    (root / "annotations").mkdir()
    content = {"images": [{"id": 1, "file_name": name}], "annotations": []}
    (root / "annotations" / "vid_val.json").write_text(json.dumps(content))
    return lambda: read_published(root)


def _kinetics(root: Path, name: str, elsewhere: Path) -> Callable[[], object]:
    (root / "k.txt").write_text("abseiling\n")
    (root / "val.csv").write_text(f"label,youtube_id,time_start,time_end,split\nabseiling,{name},3,13,val\n")
    return lambda: Kinetics400(root, classes=root / "k.txt").videos("val")


def _epic(root: Path, name: str, elsewhere: Path) -> Callable[[], object]:
    columns = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,start_frame,stop_frame,verb_class"
    row = f"a,P01,{name},00:00:00.00,00:00:02.00,1,120,3"
    (root / "EPIC_100_train.csv").write_text(f"{columns}\n{row}\n")
    return lambda: EpicKitchens(root).videos("train")


@pytest.mark.parametrize("make", [_coco, _official, _published, _kinetics, _epic])
@pytest.mark.parametrize("way", ["up", "absolute"])
def test_annotations_do_not_lead_out_of_their_folder(tmp_path: Path, elsewhere: Path, make: Any, way: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    name = "../elsewhere/secret.png" if way == "up" else str(elsewhere / "secret.png")
    harmless(make(root, name, elsewhere), tmp_path, elsewhere, said="leads out of the folder of the data")
