"""Trainings and evaluations that are killed at any step of what they write end as uninterrupted ones, to the bit.

`tests/reliability/kills.py` kills at random times, and says how often.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dying import KILLED, Steps, contents, in_child
from evaluation_tiny import config as evaluation_config
from squares_task import Squares
from train_tiny import Task

from train.estimators.oracle import OracleOptions
from train.evaluate import evaluate
from train.policy import train
from train.train_config import TrainConfig

Make = Callable[[Path], object]


def training(folder: Path) -> object:
    config = TrainConfig(
        out=str(folder), task="tiny", steps=2, window=2, streams=1, segment=1, hidden=4,
        oracle=OracleOptions(frames=2), calibration_streams=1, calibration_frames=3, policy_budgets=[0.5],
        budget_min=0.5, budget_max=0.5,
    )  # fmt: skip
    return train(config, Task(frames=4))


def evaluation(folder: Path) -> object:
    return evaluate(evaluation_config(folder, out=str(folder), budgets=[0.5], policies=["TopR", "Periodic"]), Squares())


RUNS: dict[str, Make] = {"training": training, "evaluation": evaluation}


def at_home(kind: str, folder: Path) -> Callable[[], object]:
    """A run in a folder, which notes beside it that it was trained here."""

    def run() -> object:
        os.environ["XDG_DATA_HOME"] = f"{folder}-home"
        return RUNS[kind](folder)

    return run


def result(folder: Path) -> dict[str, object]:
    """All that a run leaves, without the times that it took."""
    found: dict[str, object] = dict(contents(folder))
    for name in ("history.jsonl", "results.jsonl"):
        if name in found:
            rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
            found[name] = [{k: v for k, v in row.items() if k not in ("minutes", "seconds")} for row in rows]
    if "training.pt" in found:
        saved = torch.load(folder / "training.pt", weights_only=True)
        found["training.pt"] = repr({k: v for k, v in saved.items() if k not in ("seconds", "sha256")})
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[str], dict[str, object]]]:
    """For each kind of run: the steps of an uninterrupted one, and what it leaves."""
    found = {}
    for name in RUNS:
        folder = tmp_path_factory.mktemp(name)
        notes = folder / "notes"
        status, said = in_child(at_home(name, folder / "out"), Steps(notes=notes).watch)
        assert status == 0, said
        found[name] = (notes.read_text().splitlines(), result(folder / "out"))
    return found


def ends_the_same(kind: str, at: int, when: str, folder: Path, want: dict[str, object], step: str) -> None:
    run = at_home(kind, folder)
    for place in (folder, Path(f"{folder}-home")):
        shutil.rmtree(place, ignore_errors=True)
    status, said = in_child(run, Steps(at, when).watch)
    assert status == KILLED, (at, when, said)
    status, said = in_child(run)
    assert status == 0, (step, when, said)
    assert result(folder) == want, (step, when)


def test_children_come_from_a_process_of_a_single_thread() -> None:
    def threads_of_the_parent() -> None:
        assert len(os.listdir(f"/proc/{os.getppid()}/task")) == 1

    assert in_child(threads_of_the_parent) == (0, "")


PLACED = {
    "training": [
        ("torch.save training.pt.PID.tmp", "middle"),
        ("replace training.pt.PID.tmp training.pt", "before"),
        ("replace training.pt.PID.tmp training.pt", "after"),
        ("append history.jsonl", "middle"),
        ("replace history.jsonl.PID.tmp history.jsonl", "before"),
        ("rename policy.tmp policy", "before"),
        ("rename policy.tmp policy", "after"),
        ("rename heuristic.tmp heuristic", "after"),
        ("write_bytes model.safetensors", "middle"),
    ],
    "evaluation": [
        ("append results.jsonl", "before"),
        ("append results.jsonl", "middle"),
        ("append results.jsonl", "after"),
        ("replace results.jsonl.PID.tmp results.jsonl", "before"),
        ("write_text table.csv.PID.tmp", "middle"),
    ],
}


@pytest.mark.parametrize(
    ("kind", "step", "when"), [(kind, *place) for kind, places in PLACED.items() for place in places]
)
def test_a_placed_kill_changes_nothing(whole, tmp_path: Path, kind: str, step: str, when: str) -> None:
    steps, want = whole[kind]
    last = max(k for k, name in enumerate(steps) if name.startswith(step))
    ends_the_same(kind, last, when, tmp_path / "out", want, step)


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_a_kill_at_any_step_changes_nothing(whole, tmp_path: Path, kind: str) -> None:
    steps, want = whole[kind]
    for at, step in enumerate(steps):
        for when in ("before", "middle", "after"):
            ends_the_same(kind, at, when, tmp_path / "out", want, step)


@pytest.mark.slow
def test_a_trained_policy_is_replaced_in_one_step(whole, tmp_path: Path) -> None:
    """Between removal and renaming of `policy/` there is nothing: the two change names."""
    folder = tmp_path / "out"
    run = at_home("training", folder)
    assert in_child(run)[0] == 0
    for at in range(len(whole["training"][0])):
        status, _ = in_child(run, Steps(at, "after").watch)
        assert contents(folder / "policy").keys() >= {"config.json", "model.safetensors"}
        if status == 0:
            break
    assert result(folder) == whole["training"][1]
