"""The how-tos, followed literally: files are written, commands run, and what the text promises comes true."""

import csv
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import policies

ROOT = Path(__file__).parents[1]
MODULES = {"eventful-train": "train.policy", "eventful-evaluate": "train.evaluate"}


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the files of the how-tos."""
    for block in blocks("tasks.md", "python") + blocks("policies.md", "python"):
        name = re.match(r"# (\w+\.py)\n", block)
        if name:
            (tmp_path / name[1]).write_text(block)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("looks_left", "places", "says_so"):
        sys.modules.pop(name, None)


def run(line: str, *more: str) -> str:
    words = shlex.split(line)
    done = subprocess.run(
        [sys.executable, "-m", MODULES[words[0]], *words[1:], *more], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("estimator", ["reinforce", "gumbel"])
def test_a_network_of_ones_own_beats_the_rules(folder: Path, estimator: str, monkeypatch) -> None:
    training, evaluation = blocks("policies.md", "console")[0].strip().splitlines()
    if estimator == "gumbel":
        training = training.replace("estimator=reinforce reward=loss", "estimator=gumbel objective.task=1")
    run(training, "threads=1")
    run(evaluation, "threads=1")
    with (folder / "runs/places/evaluation/table.csv").open() as file:
        rows = {(row["policy"], row["budget"]): row for row in csv.DictReader(file)}
    for budget in ("0.1", "0.2"):
        learned = float(rows["Learned", budget]["agreement_low"])
        for rule in ("CalibratedThreshold", "TopR"):
            assert learned > float(rows[rule, budget]["agreement_high"]), f"{rule} at {budget}"
    monkeypatch.syspath_prepend(str(folder))
    namespace: dict = {}
    exec(blocks("policies.md", "python")[1], namespace)
    value_RC = namespace["policy"].value_RC.detach().squeeze()
    assert value_RC[:, :2].mean() > value_RC[:, 4:].mean() + 0.5


def test_the_task_of_the_how_to_is_a_task(folder: Path, monkeypatch) -> None:
    from envs.task import VideoTask
    from eventful.tasks import load_task

    task = load_task("looks_left:LooksLeft", frames=6)
    assert isinstance(task, VideoTask)
    clip = task.clips("test")[0]
    outputs = task.model(task.preprocess(clip.frames_THWC))
    torch.testing.assert_close(task.loss(outputs, clip.targets), torch.zeros(6), atol=1e-5, rtol=0)


def test_a_task_that_says_what_its_consumer_sees_is_trained_for_that(folder: Path) -> None:
    said = run(blocks("tasks.md", "console")[0].strip(), "threads=1")
    assert "objective: output 1, output_worst 0.1" in said
    assert "start: log||e||" in said
    policy = policies.load(folder / "runs/says-so/policy")
    assert policy.saliency and policy.provenance.objective == {"output": 1.0, "output_worst": 0.1}


def test_frames_of_a_camera_are_served(capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks("serving.md", "python")[0], {})
    assert re.fullmatch(r"door 0 \d+ ms True\nCounts\(received=1, served=1, dropped=0\)\n", capsys.readouterr().out)
