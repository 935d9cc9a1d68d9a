"""Several processes train like one with the same streams."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import policies
from eventful.errors import UserError
from train import distributed

SCRIPT = Path(__file__).parents[1] / "train_tiny.py"
SETTINGS = [
    "task=tiny",
    "steps=4",
    "window=4",
    "streams=4",
    "segment=2",
    "calibration_streams=2",
    "calibration_frames=6",
    "policy_budgets=[0.2,0.6]",
    "budget_min=0.2",
    "budget_max=0.6",
    "hidden=8",
    "lr=0.01",
]


def train(folder: Path, *options: str, processes: int) -> policies.LearnedPolicy:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), str(SCRIPT), *SETTINGS, *options, f"out={folder}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("policy written") == 1, "one process writes"
    return policies.load(folder / "policy")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            ("estimator=reinforce", "warm_start=none", "reinforce.rollouts=3", "projections=2"), marks=pytest.mark.slow
        ),
        # Without the layer that sees neighbours: it makes ten times as much of rounding as the others here.
        (
            "estimator=reinforce",
            "warm_start=none",
            "rollouts=3",
            "granularity=gate",
            "reward=metric",
            "neighbours=false",
        ),
        # One stream per process: there are frames at which all streams of a process are flushed.
        ("estimator=gumbel", "warm_start=oracle", "oracle.frames=16", "streams=2", "projections=2"),
    ],
    ids=["reinforce", "reinforce-gate", "gumbel-oracle"],
)
def test_two_processes_end_where_one_does(tmp_path, options) -> None:
    one = train(tmp_path / "one", *options, processes=1)
    two = train(tmp_path / "two", *options, processes=2)
    start = policies.load(tmp_path / "one" / "heuristic")
    for name, value in one.state_dict().items():
        # Adam turns rounding in gradients near zero into parts of a step, which is 0.01.
        torch.testing.assert_close(two.state_dict()[name], value, rtol=0, atol=1e-4, msg=name)
    assert not torch.allclose(one.out.weight, start.out.weight, atol=1e-3), "training must have moved the policy"


def test_streams_are_shared_out_evenly() -> None:
    assert list(distributed.share_out(6, 1, 3)) == [2, 3]
    with pytest.raises(UserError, match="5 streams cannot be shared out evenly to 2"):
        distributed.share_out(5, 0, 2)
