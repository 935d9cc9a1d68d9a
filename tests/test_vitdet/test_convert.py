"""Published ViTDet checkpoints become weights files: names, shapes, and refusals."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_vitdet import SMALL, Shapes, authors_shapes, cascade_heads, golden_input, small_model
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from envs.convert.__main__ import LAYOUTS, convert_file, main
from envs.convert.arrays import read_arrays
from envs.convert.names import convert
from envs.convert.vitdet import AUTHORS, DETECTRON2_COCO, DETECTRON2_VID
from envs.vitdet.detector import vitdet_b_coco, vitdet_b_vid
from eventful.cli import run
from eventful.errors import UserError

SMALL_LAYOUTS = [dataclasses.replace(layout, model=small_model) for layout in (AUTHORS, DETECTRON2_VID)]

# The authors' names of a block's layers and detectron2's.
BLOCK = {
    "input_layer_norm": "norm1",
    "qkv": "attn.qkv",
    "projection": "attn.proj",
    "mlp_layer_norm": "norm2",
    "mlp_1": "mlp.fc1",
    "mlp_2": "mlp.fc2",
    "relative_position.y_embedding": "attn.rel_pos_h",
    "relative_position.x_embedding": "attn.rel_pos_w",
}
PYRAMID = {
    "0.0": "2.0", "0.1": "2.1", "0.3": "2.3", "0.4": "2.4", "0.5": "2.4.norm", "0.6": "2.5", "0.7": "2.5.norm",
    "1.0": "3.0", "1.1": "3.1", "1.2": "3.1.norm", "1.3": "3.2", "1.4": "3.2.norm",
    "2.0": "4.0", "2.1": "4.0.norm", "2.2": "4.1", "2.3": "4.1.norm",
    "3.1": "5.1", "3.2": "5.1.norm", "3.3": "5.2", "3.4": "5.2.norm",
}  # fmt: skip


def detectron2_name(name: str) -> str:
    """What an array was called before the authors converted it."""
    parts = name.split(".")
    if name.startswith("embedding.conv."):
        return f"backbone.net.patch_embed.proj.{parts[-1]}"
    if name == "backbone.position_encoding.encoding":
        return "backbone.net.pos_embed"
    if name.startswith("backbone.blocks."):
        layer, last = (".".join(parts[3:]), "") if "relative" in name else (parts[3], f".{parts[4]}")
        return f"backbone.net.blocks.{parts[2]}.{BLOCK[layer]}{last}"
    if name.startswith("pyramid.stages."):
        return f"backbone.simfp_{PYRAMID['.'.join(parts[2:4])]}.{parts[4]}"
    return name


def detectron2_shapes(shapes: Shapes) -> Shapes:
    """The same checkpoint by detectron2's names; its positions begin with that of a class token."""
    renamed = {detectron2_name(name): shape for name, shape in shapes.items()}
    _, entries, dim = renamed["backbone.net.pos_embed"]
    return renamed | {"backbone.net.pos_embed": (1, entries + 1, dim)}


def coco_shapes() -> Shapes:
    shared = {n: s for n, s in detectron2_shapes(authors_shapes()).items() if not n.startswith("roi_heads.")}
    return shared | cascade_heads()


def meta(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def arrays() -> dict[str, Tensor]:
    """A checkpoint of the small detector by the authors' names."""
    generator = torch.Generator().manual_seed(0)
    shapes = authors_shapes(**SMALL, relative=20)  # type: ignore[arg-type]
    return {name: torch.randn(shape, generator=generator) * 0.05 for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("shapes", "count", "millions", "layout", "dropped"),
    [
        (authors_shapes(), 229, 108.0, AUTHORS, 0),
        (detectron2_shapes(authors_shapes()), 229, 108.0, DETECTRON2_VID, 0),
        (coco_shapes(), 281, 141.2, DETECTRON2_COCO, 16),
    ],
)
def test_full_checkpoints_are_recognised(
    shapes: Shapes, count: int, millions: float, layout: Any, dropped: int
) -> None:
    values = sum(torch.Size(shape).numel() for shape in shapes.values())
    assert len(shapes) == count and values / 1e6 == pytest.approx(millions, abs=0.06)
    converted = convert(meta(shapes), LAYOUTS, "checkpoint")
    assert converted.layout is layout and len(converted.dropped) == dropped
    make = vitdet_b_coco if layout is DETECTRON2_COCO else vitdet_b_vid
    expected = {name: value.shape for name, value in make(device="meta").state_dict().items()}
    assert {name: value.shape for name, value in converted.state.items()} == expected


def test_both_namings_give_the_same_detector(arrays: dict[str, Tensor], tmp_path: Path) -> None:
    raw = {detectron2_name(name): value for name, value in arrays.items()}
    positions = raw["backbone.net.pos_embed"]
    raw["backbone.net.pos_embed"] = torch.cat([torch.full_like(positions[:, :1], 7.0), positions], 1)
    torch.save(arrays, tmp_path / "authors.pth")
    torch.save({"model": raw, "iteration": 90000, "optimizer": {"state": {}}}, tmp_path / "raw.pth")
    with (tmp_path / "raw.pkl").open("wb") as file:
        numpy = {name: value.numpy() for name, value in raw.items()}
        pickle.dump({"model": numpy, "__author__": "somebody"}, file)
    outs = []
    for name in ("authors.pth", "raw.pth", "raw.pkl"):
        said = convert_file(tmp_path / name, tmp_path / "out.safetensors", SMALL_LAYOUTS)
        assert ("by the names of Eventful Transformers" in said) == (name == "authors.pth") and "117 of 117" in said
        model = small_model()
        model.load_state_dict(load_file(tmp_path / "out.safetensors"))
        with torch.inference_mode():
            outs.append(model(golden_input(0)))
    torch.testing.assert_close(outs[1], outs[0], atol=0, rtol=0)
    torch.testing.assert_close(outs[2], outs[0], atol=0, rtol=0)
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata() == {"layout": DETECTRON2_VID.name}


def test_every_fault_is_listed(arrays: dict[str, Tensor]) -> None:
    faulty = dict(arrays)
    del faulty["roi_heads.box_head.conv3.norm.bias"], faulty["backbone.blocks.2.qkv.weight"]
    faulty |= {"roi_heads.box_head.conv5.weight": torch.zeros(1), "ema_decay": torch.zeros(())}
    faulty["backbone.blocks.1.relative_position.y_embedding"] = torch.zeros(27, 16)
    faulty["backbone.position_encoding.encoding"] = torch.zeros(1, 50, 48)
    with pytest.raises(UserError) as caught:
        convert(faulty, SMALL_LAYOUTS, "checkpoint x.pth")
    assert str(caught.value) == (
        f"checkpoint x.pth is not quite {AUTHORS.name}: missing (by their names here): blocks.2.attn.qkv.weight, "
        "head.roi_heads.box_head.conv3.norm.bias; surplus: ema_decay, roi_heads.box_head.conv5.weight; of another "
        "shape: backbone.blocks.1.relative_position.y_embedding (27, 16), which does not become "
        "blocks.1.attn.rel_pos_h (39, 16), backbone.position_encoding.encoding (1, 50, 48), which does not become "
        "patch_embed.pos_embed (1, 7, 7, 48)"
    )


def test_two_arrays_for_one_place_are_refused(arrays: dict[str, Tensor]) -> None:
    twice = arrays | {"patch_embed.proj.bias": arrays["embedding.conv.bias"]}
    with pytest.raises(
        UserError, match=r"embedding\.conv\.bias and patch_embed\.proj\.bias .* patch_embed\.proj\.bias"
    ):
        convert(twice, SMALL_LAYOUTS, "checkpoint")


def test_other_checkpoints_are_not_known() -> None:
    with pytest.raises(
        UserError, match=r"none of the known checkpoints \(ViTDet-B .*; it begins with fc\.bias, fc\.weight"
    ):
        convert({"fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}, LAYOUTS, "checkpoint")


class Bomb:
    """What a pickle could do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_nothing_in_a_pickle_runs(suffix: str, tmp_path: Path) -> None:
    file, trace = tmp_path / f"bomb{suffix}", tmp_path / "trace"
    content = {"model": {"a": np.zeros(2)}, "x": Bomb(trace)}
    if suffix == ".pkl":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file)
    with pytest.raises(UserError, match="loading can run code"):
        read_arrays(file)
    assert not trace.exists()


@pytest.mark.parametrize("protocol", range(2, 6))
def test_arrays_of_all_protocols_and_types_are_read(protocol: int, tmp_path: Path) -> None:
    made = {
        "half": np.arange(6, dtype=np.float16).reshape(2, 3),
        "big": np.arange(6, dtype=">f8").reshape(3, 2).T,
        "whole": np.arange(3),
        "empty": np.zeros((0, 4), dtype=np.float32),
        "number": np.array(2.5),
    }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": made}, protocol))
    read = read_arrays(tmp_path / "x.pkl")
    assert {name: value.tolist() for name, value in read.items()} == {n: v.tolist() for n, v in made.items()}
    assert read["half"].dtype == read["big"].dtype == torch.float32 and read["whole"].dtype == torch.int64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"model": {"a": np.array([Path("x")], dtype=object)}}), "loading can run code"),
        (
            pickle.dumps({"model": {"a": np.array(["x", None], dtype=object)}}),
            "a is an array of object, not of numbers",
        ),
        (pickle.dumps({"model": {"a": "text"}}), "a is no array, but str"),
        (pickle.dumps({"model": {}}), "holds no table of arrays"),
        (pickle.dumps([1, 2]), "holds no table of arrays"),
        (pickle.dumps({"a": np.zeros(100)})[:50], "is no pickled table of arrays"),
        (b"\x80", "is no pickled table of arrays"),
        (b"c_codecs\nencode\n(Vx\nVrot13\ntR.", "holds bytes encoded as 'rot13'"),
    ],
)
def test_what_is_no_table_of_arrays_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_arrays(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    ("name", "to", "message"),
    [
        ("none.pth", "out.safetensors", "there is no checkpoint"),
        ("damaged.pth", "out.safetensors", "is no PyTorch file|holds other objects"),
        ("damaged.safetensors", "out.safetensors", "is no safetensors file"),
        ("damaged.pth", "out.pth", "the result is a .safetensors file"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(
    name: str, to: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for suffix in (".pth", ".safetensors"):
        (tmp_path / f"damaged{suffix}").write_bytes(b"no checkpoint at all")
    with pytest.raises(SystemExit) as caught:
        run("python -m envs.convert", main, [str(tmp_path / name), "--to", str(tmp_path / to)])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and any(part in error for part in message.split("|")), error
