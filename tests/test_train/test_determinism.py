"""Same seed, same machine, same result, in another process with another order of hashes, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from evaluation_tiny import config
from safetensors.torch import load_file
from squares_task import Squares

from train.evaluate import evaluate
from train.loop import history

TESTS = Path(__file__).parents[1]
TINY = "task=tiny steps=1 window=2 streams=1 segment=1 hidden=4 oracle.frames=2 calibration_streams=1"
TINY += " calibration_frames=3 policy_budgets=[0.5] budget_min=0.5 budget_max=0.5"


def trained(out: Path, hashes: str, seed: int = 0) -> Path:
    path = f"{TESTS}{os.pathsep}{TESTS.parent}"
    environment = {**os.environ, "PYTHONHASHSEED": hashes, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    words = [*TINY.split(), f"out={out}", f"seed={seed}"]
    argv = [sys.executable, str(TESTS / "train_tiny.py"), *words]
    subprocess.run(argv, check=True, env=environment, capture_output=True)
    return out


def test_a_training_is_the_same_in_every_process(tmp_path: Path) -> None:
    one, again, other = trained(tmp_path / "a", "1"), trained(tmp_path / "b", "2"), trained(tmp_path / "c", "1", seed=1)
    weights = [load_file(out / "policy" / "model.safetensors") for out in (one, again, other)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert any(not torch.equal(value, weights[2][name]) for name, value in weights[0].items())
    assert [look["points"] for look in history.read(one)] == [look["points"] for look in history.read(again)]


def test_an_evaluation_is_the_same_again(tmp_path: Path) -> None:
    for name in ("a", "b"):
        evaluate(config(tmp_path, out=str(tmp_path / name), policies=["TopR", "Random"], seeds=[0, 1]), Squares())
    for file in ("table.csv", "table.md", "differences.md"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
