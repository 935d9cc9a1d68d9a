"""The README's commands parse, its make targets exist, its Python runs."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import policies
from eventful.infer.arguments import parser as infer_parser
from eventful.trust import note_trained_here
from eventful.video.writer import VideoWriter

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```console\n(.*?)```", README, re.S) for line in block.splitlines() if line]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)


def test_there_is_something_to_check() -> None:
    assert len(COMMANDS) >= 8 and len(PYTHON) >= 3


@pytest.mark.parametrize("line", COMMANDS)
def test_commands(line: str, monkeypatch, capsys) -> None:
    words = shlex.split(line, comments=True)
    monkeypatch.chdir(ROOT)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)
    elif words[0] == "pip":
        extras = re.search(r"\[(.*)\]", words[-1]).group(1).split(",")
        declared = (ROOT / "setup.cfg").read_text().split("[options.extras_require]")[1].split("\n[")[0]
        assert all(re.search(rf"^{extra} =", declared, re.M) for extra in extras)
    elif words[0] == "eventful-infer":
        assert infer_parser("eventful-infer").parse_args(words[1:]).video
    else:
        command = {"eventful-train": "train.policy", "eventful-evaluate": "train.evaluate"}
        command["eventful-benchmark"] = "train.benchmark"
        module = __import__(command[words[0]], fromlist=["_main"])
        with pytest.raises(SystemExit) as stop:
            module._main([*words[1:], "--print-config"])
        assert stop.value.code == 0
        assert "task:" in capsys.readouterr().out


def test_python(tmp_path: Path, monkeypatch, capsys) -> None:
    """All blocks in one namespace, with random instead of pretrained weights and a small checkpoint in place."""
    create = timm.create_model

    def unpretrained(name, **options):
        return create(name, **{**options, "pretrained": False, "depth": 2})

    monkeypatch.setattr(timm, "create_model", unpretrained)
    monkeypatch.chdir(tmp_path)
    options = {"model": "vit_small_patch14_dinov2.lvd142m", "image_size": [238, 322]}
    weights = tmp_path / "vit.pth"
    torch.save(unpretrained(options["model"], img_size=(238, 322)).state_dict(), weights)
    policy = policies.LearnedPolicy(
        gates=1,
        dim=384,
        select="top",
        provenance={
            "task": {"name": "distill", "weights": str(weights), **options},
            "options": {"granularity": "frame", "attention": "exact"},
        },
    )
    policy.save_pretrained(tmp_path / "runs" / "street" / "policy")
    note_trained_here(policy.provenance)
    with VideoWriter(tmp_path / "street.mp4", 25) as writer:
        for k in range(10):
            writer.write(np.full((120, 160, 3), 20 * k, np.uint8))
    namespace: dict = {}
    for block in PYTHON:
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["features"].shape == (1, 392, 384)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 5 + 8
