"""The commands of README and how-tos parse, their make targets exist, their Python runs."""

import importlib.util
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from footage import write_video

import policies
from eventful.infer.arguments import parser as infer_parser
from eventful.trust import note_trained_here
from eventful.video.writer import VideoWriter

ROOT = Path(__file__).parents[1]
UNREAD = ("settings.md", "lab-notes.md")
"""The one is generated, the other has what was done once."""

PAGES = [
    "README.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")) if path.name not in UNREAD),
]


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", (ROOT / page).read_text(), re.S)


COMMANDS = list(
    dict.fromkeys(line for page in PAGES for block in blocks(page, "console") for line in block.splitlines() if line)
)
PYTHON = {page: blocks(page, "python") for page in PAGES}
MODULES = {
    "eventful-train": "train.policy",
    "eventful-evaluate": "train.evaluate",
    "eventful-benchmark": "train.benchmark",
    "eventful-tune": "train.tuning.tune",
}


def test_there_is_something_to_check() -> None:
    assert len(COMMANDS) >= 16 and len(PYTHON["README.md"]) >= 3 and len(PYTHON["docs/my-model.md"]) >= 4


@pytest.mark.parametrize("line", COMMANDS)
def test_commands(line: str, monkeypatch, capsys) -> None:
    words = shlex.split(line, comments=True)
    monkeypatch.chdir(ROOT)
    if words[0] == "torchrun":
        words = ["python", *words[words.index("-m") :]]
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)
    elif words[0] == "pip":
        extras = re.search(r"\[(.*)\]", words[-1]).group(1).split(",")
        declared = (ROOT / "setup.cfg").read_text().split("[options.extras_require]")[1].split("\n[")[0]
        assert all(re.search(rf"^{extra} =", declared, re.M) for extra in extras)
    elif words[0] == "tensorboard":
        assert importlib.util.find_spec(words[0])
    elif words[0] == "eventful-infer":
        assert infer_parser("eventful-infer").parse_args(words[1:]).video
    elif words[0] == "python" and not any(word.startswith("configs/") for word in words):
        assert importlib.util.find_spec(words[2])
    else:
        name, given = (words[2], words[3:]) if words[0] == "python" else (MODULES[words[0]], words[1:])
        module = importlib.import_module(name)
        if not hasattr(module, "_main"):  # a package that is run, and its command
            module = importlib.import_module(f"{name}.train")
        with pytest.raises(SystemExit) as stop:
            module._main([*given, "--print-config"])
        assert stop.value.code == 0
        assert re.search(r"^(task|layout|loss|root|data):", capsys.readouterr().out, re.M)


@pytest.fixture
def unpretrained(tmp_path: Path, monkeypatch):
    """Random instead of pretrained weights, two blocks, a folder to work in."""
    create = timm.create_model

    def made(name, **options):
        return create(name, **{**options, "pretrained": False, "depth": 2})

    monkeypatch.setattr(timm, "create_model", made)
    monkeypatch.chdir(tmp_path)
    return made


def execute(page: str) -> dict:
    """All blocks of a page in one namespace."""
    namespace: dict = {}
    for block in PYTHON[page]:
        exec(compile(block, page, "exec"), namespace)
    return namespace


def test_python(tmp_path: Path, unpretrained, capsys) -> None:
    """With a small checkpoint in place."""
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
    assert execute("README.md")["features"].shape == (1, 392, 384)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 5 + 5 + 8


def test_python_of_my_model(unpretrained, capsys) -> None:
    made = execute("docs/my-model.md")
    shares = re.findall(r"^([\d.]+)% of the compute, distance -?(\d\.\d+), worst", capsys.readouterr().out, re.M)
    assert len(shares) == 6 and shares[0][1] == "0.000"
    assert all(float(share) < 25 and float(distance) > 0 for share, distance in shares[1:])
    assert made["two"].shape == (2, 1000)


def test_python_of_my_video(tmp_path: Path, unpretrained, capsys) -> None:
    write_video(tmp_path / "clip.mp4", 6)
    frames = execute("docs/my-video.md")["frames"]
    assert [frame.shape for frame in frames] == [(1, 3, 224, 224)] * 4
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_python_of_processes(unpretrained) -> None:
    outputs = execute("docs/processes.md")["outputs"]
    assert {name: out.shape for name, out in outputs.items()} == dict.fromkeys(("door", "yard"), (1, 1000))
