"""The code and the commands of docs/vivit.md, with a small model in the place of ViViT-B."""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path

import pytest
import torch

import envs.vivit
from envs.vivit import ViViT
from envs.vivit.paper_column import top_r_macs, view_macs
from envs.vivit.weights import save_vivit
from train.tuning.tune import _main

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "vivit.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.S)
CONSOLE = [line for block in re.findall(r"```console\n(.*?)```", TEXT, re.S) for line in block.splitlines()]
COMMANDS = [line for line in CONSOLE if line.startswith("eventful-tune configs")]


def test_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_vivit: ViViT) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(envs.vivit, "ViViT", partial(ViViT, dim=48, heads=3, depth=1, temporal_depth=1))
    save_vivit(small_vivit, tmp_path / "vivit.safetensors")
    namespace: dict = {}
    for block in PYTHON:
        exec(compile(block, "docs/vivit.md", "exec"), namespace)
    assert namespace["encoded"].tokens_VSD.shape == (12, 16, 48)
    assert float(namespace["probabilities"].sum()) == pytest.approx(1, abs=1e-5)
    assert isinstance(namespace["vivit"], ViViT) and namespace["vivit"].size == 64


@pytest.mark.parametrize("line", COMMANDS)
def test_commands(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(line)[1:]
    with pytest.raises(SystemExit) as stop:
        _main([*words, "--print-config"])
    assert stop.value.code == 0 and "loss: published" in capsys.readouterr().out


def test_the_table_is_what_is_counted() -> None:
    rows = {int(row[1]): row for row in re.findall(r"^\|[^|]*, ((\d+) pixels) \| ([\d.]+) \| (.*) \|$", TEXT, re.M)}
    for size, classes in ((224, 400), (320, 97)):
        with torch.device("meta"):
            vivit = ViViT(size, classes)
        _, _, dense, others = rows[size]
        assert f"{12 * sum(view_macs(vivit).values()) / 1e12:.3f}" == dense
        found = re.findall(r"([\d.]+) \((?:r=)?(\d+)\)", others)
        assert len(found) >= 3
        assert all(f"{12 * sum(top_r_macs(vivit, int(r)).values()) / 1e12:.3f}" == tera for tera, r in found)
