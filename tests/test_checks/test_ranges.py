"""Numbers out of their ranges are refused by name, in all commands."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventful.checks.ranges import check_ranges, setting
from eventful.errors import UserError
from train.benchmark import BenchmarkConfig
from train.config import load_config
from train.config_keys import leaves
from train.curves import CurvesConfig
from train.detector.train import DetectorConfig
from train.evaluate_config import EvaluateConfig
from train.paper.actions_config import ActionsConfig
from train.paper.detection_config import PaperConfig
from train.report.__main__ import ReportConfig
from train.train_config import TrainConfig
from train.tuning.tune_config import TuneConfig
from train.verbs.train import VerbsConfig
from train.vitdet.train import VitdetConfig

COMMANDS = (
    TrainConfig,
    EvaluateConfig,
    BenchmarkConfig,
    TuneConfig,
    PaperConfig,
    ActionsConfig,
    VerbsConfig,
    VitdetConfig,
    DetectorConfig,
    ReportConfig,
    CurvesConfig,
)
NUMBERS = [
    pytest.param(cls, leaf, id=f"{cls.__name__}.{leaf.path}")
    for cls in COMMANDS
    for leaf in leaves(cls)
    if any(kind in str(leaf.hint) for kind in ("int", "float"))
    and not any(kind in str(leaf.hint) for kind in ("dict", "Literal"))
]


def refusal(cls: Any, *words: str) -> str:
    with pytest.raises(UserError) as refused:
        load_config(cls, words)
    return str(refused.value)


def given_as(leaf: Any, value: object) -> str:
    return f"{leaf.path}=[{value}]" if "list" in str(leaf.hint) else f"{leaf.path}={value}"


@pytest.mark.parametrize(("cls", "leaf"), NUMBERS)
def test_every_number_has_a_range_and_keeps_to_it(cls: Any, leaf: Any) -> None:
    required = [f"{other.path}=x" for other in leaves(cls) if other.default == "???"]
    if leaf.path != "box":
        low, high = (float(end) for end in leaf.within[1:-1].split(", "))
        for beyond in (low - 1, high + 1) if "int" in str(leaf.hint) else (low - 1e-3, high * 1.001 + 1e-3):
            word = given_as(leaf, int(beyond) if "int" in str(leaf.hint) else beyond)
            said = refusal(cls, *required, word)
            assert said.startswith(f"{leaf.path} must be ") and "\n" not in said
    if "float" in str(leaf.hint):
        assert f"{leaf.path} must be a finite number" in refusal(cls, *required, given_as(leaf, ".nan"))


SEEN = {
    "threads=1000000": "threads must be at most",
    "lr=0": "lr must be above 0",
    "clip=-1": "clip must be above 0",
    "clip=inf": "clip must be a finite number",
    "minutes=.nan": "minutes must be a finite number",
    "seed=-1": "seed must be at least 0",
    "objective.fidelity=-1": "objective.fidelity must be at least 0",
    "objective.worst=.inf": "objective.worst must be a finite number",
    "window=100000": "window must be at most",
    "streams=100000000": "streams must be at most",
    "hidden=100000000": "hidden must be at most",
}


@pytest.mark.parametrize("word", SEEN)
def test_numbers_that_once_were_accepted_or_ended_badly(word: str) -> None:
    assert refusal(TrainConfig, word).startswith(SEEN[word])


def test_resamples_that_would_not_end_and_weights_that_weigh_nothing() -> None:
    assert refusal(EvaluateConfig, "bootstrap=100000000").startswith("bootstrap must be at most")
    assert "must not all be 0" in refusal(TrainConfig, "objective.fidelity=0", "objective.worst=0")


def test_numbers_in_free_options_are_finite() -> None:
    assert "task_options.rate must be a finite number" in refusal(TrainConfig, "task_options.rate=.nan")


@given(
    low=st.integers(-5, 5),
    length=st.integers(0, 5),
    ends=st.sampled_from(["[]", "[)", "(]", "()"]),
    value=st.integers(-12, 12) | st.floats(-12, 12),
)
def test_an_interval_is_what_it_says(low: int, length: int, ends: str, value: float) -> None:
    high = low + length
    made = dataclasses.make_dataclass("Made", [("x", float, setting(value, f"{ends[0]}{low}, {high}{ends[1]}"))])
    above = value >= low if ends[0] == "[" else value > low
    below = value <= high if ends[1] == "]" else value < high
    if above and below:
        check_ranges(made())
    else:
        with pytest.raises(UserError, match=r"^group\.x must be (at least|above|at most|below) "):
            check_ranges(made(), "group.")


@pytest.mark.parametrize("text", ["0, 1", "[1, 0]", "[0; 1]", "[a, b]"])
def test_what_is_no_interval(text: str) -> None:
    with pytest.raises(ValueError):
        setting(1, text)


def test_nothing_is_infinite_without_a_range() -> None:
    made = dataclasses.make_dataclass("Made", [("x", float), ("y", object), ("flag", bool)])
    check_ranges(made(1e300, [1, {"a": 2}], True))
    for y in (math.nan, [math.inf], {"a": {"b": -math.inf}}):
        with pytest.raises(UserError, match=r"^y\S* must be a finite number"):
            check_ranges(made(0, y, False))
