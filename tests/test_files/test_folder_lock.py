"""One run a folder: the second is refused and told by whom, and nobody is kept out by a process that has died."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation_tiny import config as evaluation_config
from squares_task import Squares
from train_tiny import Task

from eventful.errors import UserError
from train.evaluate import evaluate
from train.files.folder_lock import only_run_in
from train.policy import train
from train.train_config import TrainConfig

HOLD = "import sys; from pathlib import Path; from train.files.folder_lock import only_run_in\n"
HOLD += "with only_run_in(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"


@pytest.fixture
def other(tmp_path: Path):
    """Another process that is at work in the folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "in\n"
        yield process
        process.kill()


def test_trainings_and_evaluations_are_refused_while_another_process_runs(tmp_path: Path, other) -> None:
    said = rf"{tmp_path} is in use by another run \(process {other.pid} on .+\): wait until it has ended"
    with pytest.raises(UserError, match=said):
        train(TrainConfig(out=str(tmp_path), task="tiny"), Task())
    with pytest.raises(UserError, match=said):
        evaluate(evaluation_config(tmp_path, out=str(tmp_path)), Squares())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".lock.owner"]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_dies_with_its_process(tmp_path: Path, other, end: signal.Signals) -> None:
    os.kill(other.pid, end)
    other.wait()
    with only_run_in(tmp_path):
        pass


def test_a_process_may_come_back_but_not_twice_at_once(tmp_path: Path) -> None:
    for _ in range(2):
        with only_run_in(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()} on"), only_run_in(tmp_path):
            pass
    with pytest.raises(RuntimeError, match="broke"), only_run_in(tmp_path):
        raise RuntimeError("broke")
    with only_run_in(tmp_path / "evaluation"), only_run_in(tmp_path):
        pass
