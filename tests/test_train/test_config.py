"""Configs: precedence, conversion, and one line for each mistake."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml

from eventful import cli
from eventful.errors import UserError
from eventful.infer.arguments import parser as infer_parser
from train.config import load_config
from train.evaluate_config import EvaluateConfig
from train.task_config import TaskConfig, make_task, task_options


@dataclass
class Optimiser:
    """Of the example.

    Attributes:
        rate: Step size of
            the optimiser.
        steps: How many.
    """

    rate: float = 1e-3
    steps: int = 10


@dataclass
class Example(TaskConfig):
    """An example config.

    Attributes:
        estimator: Which gradient.
        budgets: Shares of the dense MACs.
        out: Folder for results.
    """

    estimator: Literal["gumbel", "reinforce"] = "gumbel"
    seed: int = 0
    budgets: list[float] = field(default_factory=lambda: [0.1])
    optimiser: Optimiser = field(default_factory=Optimiser)
    out: str = "runs"

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "demo.yaml"
    path.write_text("estimator: reinforce\noptimiser:\n  rate: 1e-2\nbudgets: [0.05, 0.1]\n")
    return path


def failure(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command ends."""
    with pytest.raises(SystemExit) as caught:
        cli.run("eventful-train", lambda args: print(load_config(Example, args)), argv)
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and out == ""
    assert err.startswith("eventful-train: error: ") and err.count("\n") == 1
    return err.removeprefix("eventful-train: error: ").rstrip("\n")


def test_defaults_file_and_overrides(config_file: Path) -> None:
    config = load_config(Example, ["seed=3", str(config_file), "optimiser.steps=7", "estimator=gumbel"])
    assert type(config) is Example and type(config.optimiser) is Optimiser
    assert (config.estimator, config.seed, config.out) == ("gumbel", 3, "runs")
    assert (config.optimiser.rate, config.optimiser.steps) == (0.01, 7)
    assert config.budgets == [0.05, 0.1] and type(config.budgets) is list


def test_values_with_equals_signs_and_names_like_numbers() -> None:
    config = load_config(Example, ["video=a=b.mp4", "out=12", "task_options.frames=3", "image_size=[32,48]"])
    assert (config.video, config.out) == ("a=b.mp4", "12")
    assert task_options(config) == {"video": "a=b.mp4", "image_size": [32, 48], "frames": 3}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("sede=1", "override 'sede=1': unknown key 'sede'; did you mean seed?"),
        ("optimiser.rat=1", "override 'optimiser.rat=1': unknown key 'optimiser.rat'; did you mean optimiser.rate?"),
        ("seed=x", "override 'seed=x': seed must be int, got 'x'"),
        ("optimiser.rate=fast", "override 'optimiser.rate=fast': optimiser.rate must be float, got 'fast'"),
        ("optimiser=3", "override 'optimiser=3': optimiser must hold keys (optimiser.rate, optimiser.steps), got 3"),
        ("budgets=3", "override 'budgets=3': budgets must be list[float], got 3"),
        ("estimator=gumbl", "override 'estimator=gumbl': estimator must be gumbel | reinforce, got 'gumbl'"),
        ("[=", "override '[=' names no key; overrides are written key=value"),
        ("=3", "override '=3' names no key; overrides are written key=value"),
        ("budgets=[", "override 'budgets=[' has no valid value: did not find expected node content in line 2"),
        ("seed=-1", "seed must be at least 0, got -1"),
        ("estimator=${nothing}", "estimator: Invalid value '${nothing}', expected one of ['gumbel', 'reinforce']"),
        ("no.yaml", "config file no.yaml does not exist"),
    ],
)
def test_mistakes_in_arguments(argument: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert failure([argument], capsys) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("estimatr: gumbel", "unknown key 'estimatr'; did you mean estimator?"),
        ("optimiser:\n  steps: many", "optimiser.steps must be int, got 'many'"),
    ],
)
def test_mistakes_in_files(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    assert failure([str(path)], capsys) == f"{path}: {message}"


@pytest.mark.parametrize("text", ["a: [\nb", "- 1\n- 2", "just words"])
def test_files_that_are_no_config(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    assert str(path) in failure([str(path)], capsys)


def test_unknown_option_and_two_files(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown option --sede" in failure(["--sede", "3"], capsys)
    assert "one config file at most" in failure([str(config_file), "other.yaml"], capsys)


def test_missing_file_names_a_similar_one(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = str(config_file.with_name("dmo.yaml"))
    assert failure([wrong], capsys) == f"config file {wrong} does not exist; did you mean {config_file}?"


def test_print_config(config_file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        load_config(Example, [str(config_file), "seed=5", "--print-config"])
    assert caught.value.code == 0
    again = tmp_path / "again.yaml"
    again.write_text(capsys.readouterr().out)
    assert load_config(Example, [str(again)]) == load_config(Example, [str(config_file), "seed=5"])


def test_help_lists_keys_with_types_defaults_and_docs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_config(Example, ["--help"], "eventful-train")
    out = capsys.readouterr().out
    assert "estimator: gumbel | reinforce = gumbel\n      Which gradient." in out
    assert "optimiser.rate: float = 0.001\n      Step size of the optimiser." in out
    assert "video: str | None = None\n      Video file" in out, "docs of inherited keys"


def test_command_line_without_traceback() -> None:
    code = (
        "from eventful import cli; from train.config import load_config; from train.task_config import TaskConfig;"
        "cli.run('eventful-train', lambda argv: load_config(TaskConfig, argv))"
    )
    done = subprocess.run([sys.executable, "-c", code, "tsk=doom"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "eventful-train: error: override 'tsk=doom': unknown key 'tsk'; did you mean task?\n"


def test_programming_errors_keep_their_traceback() -> None:
    def broken(argv: object) -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        cli.run("eventful-train", broken, [])


def test_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(argv: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        cli.run("eventful-train", interrupted, [])
    assert caught.value.code == 130 and capsys.readouterr().err == "eventful-train: interrupted\n"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=distil"], r"there is no task 'distil'; did you mean distill\? \(installed tasks: .*doom.*\)"),
        (["task=distill"], "task distill needs model"),
        (["task=doom", "video=a.mp4"], "task doom has no option 'video'"),
        (["task=doom", "task_options.fames=3"], r"task doom has no option 'fames'; did you mean frames\?"),
        (["task=doom", "task_options.frames=many"], r"task doom: option frames cannot be 'many' \(int is needed\)"),
        (["task=doom", "task_options.sizes={test:4}"], r"option sizes cannot be \{'test:4': None\} \(Mapping"),
        (["task=doom", "model=vit_tiny"], "task doom: option model cannot be 'vit_tiny'"),
        (["video=a.mp4", "task_options.video=b.mp4"], "video=a.mp4 and task_options.video=b.mp4 are one option"),
    ],
)
def test_mistakes_in_task_options(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_task(load_config(TaskConfig, overrides))


@pytest.mark.parametrize(
    "text",
    [
        "clip #1.mp4",
        "007",
        "1e3",
        "12:30",
        "3.10",
        "yes",
        "???",
        "[cam1] a.mp4",
        "{a}.mp4",
        "@a.mp4",
        "a: b",
        "${HOME}",
        "\\\\${oc.env:HOME}\\${a}",
        "a=b",
    ],
)
def test_a_text_is_meant_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(Example, [f"out={text}", f"video={text}"])
    assert (config.out, config.video) == (text, text)
    with pytest.raises(SystemExit):
        load_config(Example, [f"out={text}", "--print-config"])
    assert yaml.safe_load(capsys.readouterr().out)["out"] == text


def test_nothing_in_a_table_is_looked_up(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("task_options: {a: '${oc.env:HOME}', b: [1, '${out}'], c: {d: '${x}'}}\n")
    asked = load_config(TaskConfig, [str(path), "task_options.e=${task}"]).task_options
    assert asked == {"a": "${oc.env:HOME}", "b": [1, "${out}"], "c": {"d": "${x}"}, "e": "${task}"}


def test_quotes_and_null_of_a_text_are_those_of_yaml() -> None:
    assert load_config(Example, ["out='a b'", "video=null"]).video is None
    assert load_config(Example, ["out='a b'"]).out == "a b"
    assert load_config(Example, ["video=a", "video=null"]).video is None
    assert load_config(Example, ["out=???", "out=b"]).out == "b", "the last one counts"


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_config(Example, ["out=~/runs"]).out == str(tmp_path / "runs")
    (tmp_path / "a.yaml").write_text("out: ~/runs\nvideo: a~/b\n")
    found = load_config(Example, [str(tmp_path / "a.yaml")])
    assert (found.out, found.video) == (str(tmp_path / "runs"), "a~/b")
    assert load_config(EvaluateConfig, ["policy=[~/a,b]"]).policy == [str(tmp_path / "a"), "b"]
    assert infer_parser("infer").parse_args(["~/a.mp4", "--heuristic", "all"]).video == str(tmp_path / "a.mp4")
