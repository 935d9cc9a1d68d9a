"""Options that all commands have: help with examples, version, quiet, completion; nothing is coloured."""

from __future__ import annotations

import contextlib
import importlib
import os
import pty
import re
import shlex
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
import torch

from eventful import cli
from eventful.console.options import split_common
from eventful.console.output import progress, quiet, say
from eventful.infer.arguments import EXAMPLES, parser
from train.bench.rate import RateConfig
from train.benchmark import BenchmarkConfig
from train.card.__main__ import CardConfig
from train.config import load_config
from train.config_keys import examples
from train.curves import CurvesConfig
from train.detector.train import DetectorConfig
from train.evaluate_config import EvaluateConfig
from train.paper.actions_config import ActionsConfig
from train.paper.detection_config import PaperConfig
from train.report.__main__ import ReportConfig
from train.serving.load import LoadConfig
from train.train_config import TrainConfig
from train.tuning.tune_config import TuneConfig
from train.verbs.train import VerbsConfig
from train.vitdet.train import VitdetConfig

ROOT = Path(__file__).parents[2]
CONSOLE = {e.name: e for e in entry_points(group="console_scripts") if e.value.split(".")[0] in ("train", "eventful")}
CONFIGS = {
    "eventful-train": TrainConfig,
    "eventful-evaluate": EvaluateConfig,
    "eventful-benchmark": BenchmarkConfig,
    "eventful-tune": TuneConfig,
    "train.report": ReportConfig,
    "train.curves": CurvesConfig,
    "train.card": CardConfig,
    "train.detector": DetectorConfig,
    "train.verbs": VerbsConfig,
    "train.serving": LoadConfig,
    "train.bench.rate": RateConfig,
    "train.vitdet": VitdetConfig,
    "train.paper.detection": PaperConfig,
    "train.paper.actions": ActionsConfig,
}
ESCAPE = "\x1b"


def ended(command: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit code of a console command, in this process."""
    monkeypatch.setattr(sys, "argv", [command, *words])
    with pytest.raises(SystemExit) as stop:
        CONSOLE[command].load()()
    return int(stop.value.code or 0)


def test_all_commands_are_looked_at() -> None:
    assert len(CONSOLE) == 5 and CONSOLE.keys() >= {name for name in CONFIGS if name.startswith("eventful")}
    sources = "".join(path.read_text() for path in (ROOT / "train").rglob("*.py"))
    assert set(re.findall(r"load_config\((\w+),", sources)) == {cls.__name__ for cls in CONFIGS.values()}


@pytest.mark.parametrize("command", CONSOLE)
def test_version(command: str, monkeypatch, capsys) -> None:
    assert ended(command, ["--version"], monkeypatch) == 0
    ours = version("eventful-policies")
    expected = f"eventful-policies {ours} (torch {version('torch')}, timm {version('timm')})\n"
    assert capsys.readouterr().out == expected
    assert version("torch").split("+")[0] == torch.__version__.split("+")[0]


@pytest.mark.parametrize("command", CONSOLE)
def test_help_has_the_common_options_and_examples(command: str, monkeypatch, capsys) -> None:
    assert ended(command, ["--help"], monkeypatch) == 0
    out = capsys.readouterr().out
    options, shown = out.rsplit("\noptions:\n", 1)[1].split("\nexamples:\n")
    for option in ("-h, --help", "-q, --quiet", "--version", "--print-completion"):
        assert re.search(rf"^  {option}  +\w", options, re.M)
    assert len(re.findall(rf"^  {command} ", shown, re.M)) >= 2 and ESCAPE not in out


@pytest.mark.parametrize("name", CONFIGS)
def test_examples_of_settings_are_read(name: str, monkeypatch, capsys) -> None:
    """With the config files of the repository, to the end of all checks."""
    monkeypatch.chdir(ROOT)
    lines = examples(CONFIGS[name])
    own = [shlex.split(line) for line in lines if name in line.split()]
    assert own
    for words in own:
        given = words[words.index(name) + 1 :]
        with pytest.raises(SystemExit) as stop:
            load_config(CONFIGS[name], [*(word for word in given if word != "--evaluate"), "--print-config"])
        assert stop.value.code == 0
    assert capsys.readouterr().out


def test_examples_of_inference_are_read() -> None:
    for line in EXAMPLES:
        command, *words = shlex.split(line)
        assert parser(command).parse_args(words).video


def test_only_the_common_options_are_taken_away() -> None:
    assert split_common(["-q", "a.yaml", "x=--quiet"]) == (["a.yaml", "x=--quiet"], True, False)
    assert split_common(["video", "--version"]) == (["video"], False, True)
    assert split_common(["--", "-q", "--version"]) == (["--", "-q", "--version"], False, False)


def test_quiet_leaves_results_and_errors(capsys) -> None:
    def work(argv) -> None:
        say("still at it")
        for _ in progress(range(2), "working", shown=True):
            pass
        print("result")
        raise FileNotFoundError(2, "No such file or directory", "clip.mp4")

    def told(*argv: str) -> tuple[str, str]:
        with pytest.raises(SystemExit) as stop:
            cli.run("works", work, argv)
        assert stop.value.code == 2
        return capsys.readouterr()

    out, err = told()
    assert out == "still at it\nresult\n" and "working: 100%" in err
    for option in ("-q", "--quiet"):
        assert told(option) == ("result\n", "works: error: clip.mp4: No such file or directory\n")
    out, _ = told()
    assert out.startswith("still"), "one quiet command makes no other one quiet"


def test_quiet_ends_with_its_block(capsys) -> None:
    with contextlib.suppress(ValueError), quiet():
        raise ValueError
    say("heard")
    assert capsys.readouterr().out == "heard\n"


@pytest.mark.parametrize("command", CONSOLE)
def test_completion_is_a_line_that_bash_takes(command: str, monkeypatch, capsys) -> None:
    assert ended(command, ["--print-completion"], monkeypatch) == 0
    line = capsys.readouterr().out.strip()
    done = subprocess.run(["bash", "-c", f"{line}; complete -p {command}"], capture_output=True, text=True, check=True)
    words = shlex.split(done.stdout)[shlex.split(done.stdout).index("-W") + 1].split()
    assert {"--quiet", "--version", "--help"} <= set(words)
    assert {"--policy", "--budget"} <= set(words) if command == "eventful-infer" else "out=" in words


def test_completion_is_for_commands_of_one_word() -> None:
    with pytest.raises(cli.UserError, match="for the console commands"):
        load_config(ReportConfig, ["--print-completion"], "python -m train.report")


def on_a_terminal(words: list[str], environment: dict[str, str]) -> str:
    """What a program says on a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (40, 120))
    with subprocess.Popen(words, stdout=theirs, stderr=theirs, env=environment, cwd=ROOT):
        os.close(theirs)
        with os.fdopen(ours, "rb") as screen:
            return b"".join(_chunks(screen.fileno())).decode()


def _chunks(number: int) -> Iterator[bytes]:
    # A terminal whose program has gone raises instead of being at its end.
    with contextlib.suppress(OSError):
        while chunk := os.read(number, 4096):
            yield chunk


@pytest.mark.parametrize("wish", [{}, {"NO_COLOR": "1"}])
def test_nothing_is_coloured_on_a_terminal(wish: dict[str, str]) -> None:
    program = """
from eventful import cli
from eventful.console.output import progress
from eventful.infer.arguments import parser

def main(argv):
    for _ in progress(range(3), "working", leave=False):
        pass
    print(parser("eventful-infer").format_help())
    raise FileNotFoundError(2, "No such file", "clip.mp4")

cli.run("works", main)
"""
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    said = on_a_terminal([sys.executable, "-c", program], {**inherited, "TERM": "xterm-256color", **wish})
    assert "working: " in said and "examples:" in said and "works: error: clip.mp4" in said
    assert ESCAPE not in said


def test_modules_that_are_commands_have_the_common_options(capsys) -> None:
    for name in ("envs.convert.__main__", "envs.doom.export", "envs.doom.export_verbs", "train.paper.compute"):
        main: Callable = importlib.import_module(name).main
        with pytest.raises(SystemExit):
            main(["--help"])
        assert f"\nexamples:\n  python -m {name.removesuffix('.__main__')}" in capsys.readouterr().out
