"""`task=MODULE:CLASS`: loaded from the working directory, for whoever the user trusts, in all commands."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from footage import write_video

import eventful.infer
import policies
from eventful.errors import UserError
from policies import LearnedPolicy
from train import policy as training
from train.config import load_config
from train.evaluate import evaluate
from train.evaluate_config import EvaluateConfig, completed
from train.task_config import TaskConfig, make_task

MODULE = """
class Half:
    name, model, class_names = "half", None, ()

    def __init__(self, size: int = 3):
        self.size = size

    def preprocess(self, frames): ...


class Whole(Half):
    def predictions(self, outputs, frame_size): ...


CONSTANT = 3
"""


@pytest.fixture
def own_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_tasks.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("x = 1\n1 / 0\n")
    (tmp_path / "misspelt.py").write_text("def f(:\n")
    yield
    sys.modules.pop("my_tasks", None)


def test_a_task_of_ones_own(own_module: None) -> None:
    assert make_task(load_config(TaskConfig, ["task=my_tasks:Whole", "task_options.size=5"])).size == 5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=my_tasks:1"], "task: 'my_tasks:1' must be MODULE:CLASS"),
        (["task=nowhere:Task"], "task: nowhere:Task: module 'nowhere' cannot be imported: No module named 'nowhere'"),
        (["task=my_tasks:Bad"], "task: my_tasks:Bad: module 'my_tasks' has no class 'Bad'"),
        (["task=my_tasks:CONSTANT"], "module 'my_tasks' has no class 'CONSTANT'"),
        (["task=my_tasks:Half"], "task my_tasks:Half is no task: it lacks predictions"),
        (["task=my_tasks:Whole", "video=a.mp4"], "task my_tasks:Whole has no option 'video'"),
        (["task=my_tasks:Whole", "task_options.size=x"], "task my_tasks:Whole: option size cannot be 'x'"),
        (["task=broken:Task"], r"ZeroDivisionError: division by zero \(.*broken\.py, line 2\)"),
        (["task=misspelt:Task"], r"module 'misspelt' cannot be imported: invalid syntax \(misspelt\.py, line 1\)"),
    ],
)
def test_mistakes_in_a_task_of_ones_own(own_module: None, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_task(load_config(TaskConfig, overrides))


def test_code_that_a_checkpoint_names_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foreign.py").write_text("raise SystemExit('run')\n")
    foreign = LearnedPolicy(1, 8, provenance={"task": {"name": "foreign:Task", "clip_length": 3}})
    with pytest.raises(UserError, match="code that a file names is not run: give task=foreign:Task"):
        completed(EvaluateConfig(), {"a": foreign})
    assert "foreign" not in sys.modules
    given = completed(EvaluateConfig(task="foreign:Task"), {"a": foreign})
    assert (given.task, given.clip_length) == ("foreign:Task", 3)


def test_a_task_of_ones_own_by_the_command(tmp_path, monkeypatch) -> None:
    """Trained, and evaluated: the checkpoint names the class and its options, but the user has to name it again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_task.py").write_text("from train_tiny import Task\n\n\nclass Own(Task):\n    pass\n")
    words = "out=run task=own_task:Own task_options.has_labels=false estimator=reinforce warm_start=none rollouts=2"
    words += " steps=1 window=3 streams=1 calibration_streams=2 calibration_frames=6 policy_budgets=[0.2,0.6] hidden=8"
    training._main(words.split())
    trained = policies.load("run/policy").provenance
    assert (trained.task, trained.task_options) == ("own_task:Own", {"has_labels": False})
    words = "policy=run/policy policies=[Learned] budgets=[0.3] calibration_streams=2 calibration_frames=6 bootstrap=5"
    config = load_config(EvaluateConfig, f"{words} latency=false plots=false out=evaluation".split())
    with pytest.raises(UserError, match="code that a file names is not run: give task=own_task:Own"):
        evaluate(config)
    comparison = evaluate(dataclasses.replace(config, task="own_task:Own"))
    assert [measure.id for measure in comparison.measures] == ["distance", "worst"], "options are the checkpoint's"


def infer(*argv: object) -> int:
    with pytest.raises(SystemExit) as caught:
        eventful.infer.main([str(word) for word in argv])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_a_task_of_ones_own_in_inference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By name for a heuristic; by name again for a checkpoint that was trained on it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "tiny_own.py").write_text(
        "from tiny_task import TinyTask\n\n\nclass Own(TinyTask):\n"
        "    def preprocess(self, frames):\n        return super().preprocess(frames[:, :32, :32])\n"
    )
    provenance = {"task": {"name": "tiny_own:Own", "seed": 3}, "options": {"granularity": "frame"}}
    LearnedPolicy(1, 32, provenance=provenance).save_pretrained(tmp_path / "policy")
    video = write_video(tmp_path / "a.mp4", 4)
    command = [video, "--device", "cpu", "--json", "rows.jsonl"]
    assert infer(*command, "--policy", "policy") == 2
    assert "not run: give task=tiny_own:Own (eventful-infer: --task tiny_own:Own)" in capsys.readouterr().err
    assert "tiny_own" not in sys.modules
    assert infer(*command, "--policy", "policy", "--task", "tiny_own:Own") == 0
    assert infer(*command, "--heuristic", "top-r:3", "--task", "tiny_own:Own") == 0
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 4
    assert infer(*command, "--policy", "policy", "--task", "tiny_own:Other") == 2
    assert "module 'tiny_own' has no class 'Other'" in capsys.readouterr().err
