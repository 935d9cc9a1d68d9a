"""A disk that takes no more: one line that names the file, code 2, what was there is kept, and the run goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from dying import in_child, small_disk
from matplotlib.figure import Figure
from test_kills import at_home, result
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from vitdet_tiny import tiny_detector

from envs.convert.__main__ import convert_file
from envs.convert.names import Layout
from envs.doom.detector import save_detector as save_doom_detector
from envs.vitdet.weights import DetectorFacts, save_detector
from eventful import cli
from eventful.disk import full
from eventful.disk.full import append, written
from eventful.disk.replaced import replace_file, replace_folder, replace_text
from eventful.errors import UserError
from train.evaluation.plots import write_figure
from train.pages import replace_figures
from train.recipe.training import Recipe, Training

LONG = "x" * 100_000


def a_training(folder: Path) -> None:
    model = nn.Linear(200, 200)
    Training(model, {model: 1.0}, Recipe(steps=1, batch=1, save_every=1), {}, folder, "rows").fit(
        lambda generator: model(torch.randn(2, 200, generator=generator)).square().mean(), lambda: ""
    )


def small_vit() -> VisionTransformer:
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=2, num_classes=2)


WRITERS: Mapping[str, tuple[str, Callable[[Path], object]]] = {
    "text": ("a", lambda f: replace_text(f / "a", LONG)),
    "torch": ("a", lambda f: replace_file(f / "a", lambda p: torch.save(torch.zeros(50_000), p))),
    "folder": ("a", lambda f: replace_folder(f / "a", lambda p: (p.mkdir(), (p / "b").write_text(LONG)))),
    "line": ("a", lambda f: append(f / "a", LONG)),
    "page": ("a", lambda f: replace_figures(f / "a", LONG, "Title")),
    "figure": ("a.png", lambda f: write_figure(Figure(figsize=(40, 40)), f / "a.png")),
    "state of a recipe": ("state.pt", a_training),
    "Doom detector": ("a", lambda f: save_doom_detector(small_vit(), f / "a")),
    "ViTDet": ("a", lambda f: save_detector(tiny_detector(), f / "a", DetectorFacts())),
}


@pytest.mark.parametrize("name", WRITERS)
def test_whoever_writes_says_it_in_one_line(name: str, tmp_path: Path) -> None:
    file, write = WRITERS[name]
    before = tmp_path / file
    if name == "folder":
        before.mkdir()
        (before / "b").write_text("before")
    elif name != "page":
        before.write_text("before")
    if name == "state of a recipe":
        before.unlink()
    status, said = in_child(lambda: cli.run("command", lambda _: write(tmp_path), []), small_disk(4000))
    assert status == 2 and said.count("\n") == 1 and "Traceback" not in said, said
    assert said.startswith(f"command: error: {before} cannot be written: "), said
    if name == "folder":
        assert (before / "b").read_text() == "before" and "what was there before is kept" in said
    elif before.exists():
        assert before.read_text().startswith("before") and "is kept" in said
    assert not [path for path in os.listdir(tmp_path) if path.endswith(".tmp")]


def test_a_converted_checkpoint(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(20_000)}, tmp_path / "a.pth")
    out, layouts = tmp_path / "out.safetensors", list[Layout]()

    def run(_: object) -> None:
        found = SimpleNamespace(state={"a": torch.zeros(20_000)}, layout=SimpleNamespace(name="any"), dropped=[])
        with mock.patch("envs.convert.__main__.convert", lambda *_: found):
            convert_file(tmp_path / "a.pth", out, layouts)

    status, said = in_child(lambda: cli.run("convert", run, []), small_disk(4000))
    assert status == 2 and said == f"convert: error: {out} cannot be written: File too large\n" and not out.exists()


@pytest.mark.parametrize(("kind", "limits"), [("training", (5, 150, 3000, 20_000)), ("evaluation", (5, 600, 3000))])
def test_a_run_ends_with_one_line_and_goes_on_when_there_is_room(kind: str, limits: Any, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert in_child(at_home(kind, whole))[0] == 0
    for limit in limits:
        run = at_home(kind, parts)
        status, said = in_child(lambda run=run: cli.run(kind, lambda _: run(), ["--quiet"]), small_disk(limit))
        # Bars and warnings aside, there is the one line.
        errors = [line for line in said.splitlines() if ": error: " in line]
        assert status == 2 and len(errors) == 1 and "Traceback" not in said, (limit, said)
        assert " cannot be written: " in errors[0], errors
    assert in_child(at_home(kind, parts))[0] == 0
    assert result(parts) == result(whole)


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), written(tmp_path / "a"):
        raise RuntimeError("shapes do not fit")
    with pytest.raises(UserError, match=r"a cannot be written: No space left on device$"), written(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    assert full._reason(RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"))
