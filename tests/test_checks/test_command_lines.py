"""Whatever stands on a command line ends with code 0, or with one line and code 2."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventful import cli
from eventful.infer import command as infer
from train import benchmark, curves, evaluate, policy
from train.config_keys import leaves
from train.curves import CurvesConfig
from train.detector import train as detector
from train.paper import actions, detection
from train.report.__main__ import ReportConfig
from train.report.__main__ import _main as report_main
from train.serving import load
from train.tuning import tune
from train.verbs import train as verbs
from train.vitdet import train as vitdet

Main = Callable[[Sequence[str]], object]

COMMANDS: dict[str, tuple[Main, Any]] = {
    "train": (policy._main, policy.TrainConfig),
    "evaluate": (evaluate._main, evaluate.EvaluateConfig),
    "benchmark": (benchmark._main, benchmark.BenchmarkConfig),
    "tune": (tune._main, tune.TuneConfig),
    "curves": (curves._main, CurvesConfig),
    "report": (report_main, ReportConfig),
    "detector": (detector._main, detector.DetectorConfig),
    "verbs": (verbs._main, verbs.VerbsConfig),
    "serving": (load._main, load.LoadConfig),
    "vitdet": (vitdet._main, vitdet.VitdetConfig),
    "paper.detection": (detection._main, detection.PaperConfig),
    "paper.actions": (actions._main, actions.ActionsConfig),
}

VALUES = st.one_of(
    st.sampled_from(
        ["", "null", "nan", ".nan", "-.inf", "true", "[]", "{}", "[1,2]", "{a: 1}", "???", "${x}", "0", "-1"]
    ),
    st.sampled_from(["1e309", "99999999999999999999", "[", "{", '"', "'", "!!python/object:os.system x", "*a", "&a 1"]),
    st.integers().map(str),
    st.floats().map(str),
    st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12),
)
INFER = [
    "--policy",
    "--heuristic",
    "--budget",
    "--budget-schedule",
    "--fps",
    "--out",
    "--json",
    "--size",
    "--max-frames",
]


def end_of(main: Main, argv: Sequence[str]) -> tuple[object, str]:
    said = io.StringIO()
    with (
        pytest.raises(SystemExit) as stop,
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        cli.run("command", main, argv)
    return stop.value.code, said.getvalue()


def check(main: Main, argv: Sequence[str]) -> None:
    code, said = end_of(main, argv)
    assert code in (0, 2), (argv, said)
    if code == 2:
        assert said.count("\n") == 1 and ": error: " in said and "Traceback" not in said, (argv, said)


@pytest.mark.parametrize("command", COMMANDS)
@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_settings(command: str, data: st.DataObject) -> None:
    main, config = COMMANDS[command]
    known = [leaf.path for leaf in leaves(config)]
    keys = st.one_of(st.sampled_from(known), st.sampled_from(known).map(lambda key: key + "x"), VALUES)
    words = data.draw(st.lists(st.tuples(keys, VALUES).map("=".join) | VALUES, max_size=4))
    # What is accepted is not run: it would train.
    check(main, [*words, "--print-config"])


@given(words=st.lists(st.sampled_from(INFER) | VALUES, max_size=6))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_arguments_of_inference(words: list[str]) -> None:
    check(infer._main, ["no such video.mp4", *words])


@given(content=st.binary(max_size=80) | VALUES.map(lambda text: f"task_options: {text}\nsteps: {text}\n".encode()))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_config_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    check(policy._main, [str(path), "--print-config"])
