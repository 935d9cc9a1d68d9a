"""Settings of training: names of earlier versions, what nothing reads, ranges, the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from envs.damage import Objective
from eventful.errors import UserError
from train.config import load_config, part
from train.estimators.budget_control import BudgetOptions
from train.train_config import TrainConfig, check

FORMER = {
    "rollouts": ("reinforce.rollouts", 7),
    "discount": ("reinforce.discount", 0.5),
    "far": ("reinforce.far", 0.3),
    "entropy": ("reinforce.entropy", 0.25),
    "p_min": ("reinforce.p_min", 0.125),
    "temperature": ("gumbel.temperature", 0.75),
    "noise": ("gumbel.noise", False),
    "oracle_frames": ("oracle.frames", 9),
    "oracle_lr": ("oracle.lr", 0.5),
}


@pytest.mark.parametrize("former", FORMER)
def test_former_names_are_other_spellings(former: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In files and on command lines, on top of each other; what is printed has the names of now."""
    now, value = FORMER[former]
    group, name = now.split(".")
    estimator = f"estimator={'reinforce' if group == 'reinforce' else 'gumbel'}"
    path = tmp_path / "former.yaml"
    path.write_text(f"{former}: {value}\n")
    for argv in ([str(path)], [f"{former}={value}"], [f"{now}={value}"], [f"{former}={value}", f"{now}={value}"]):
        config = load_config(TrainConfig, [*argv, estimator])
        assert getattr(getattr(config, group), name) == value
    default = getattr(getattr(TrainConfig(), group), name)
    files = {f"{former}: {value}": now, f"{group}: {{{name}: {value}}}": former}
    for text, other in files.items():
        path.write_text(text)
        config = load_config(TrainConfig, [str(path), f"{other}={default}", estimator])
        assert getattr(getattr(config, group), name) == default, "the command line is on top of the file"
    with pytest.raises(SystemExit):
        load_config(TrainConfig, [f"{former}={value}", estimator, "--print-config"])
    printed = capsys.readouterr().out
    assert f"\n  {name}: {str(value).lower()}\n" in printed and f"\n{former}:" not in printed


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (
            "rollouts: 3\nreinforce:\n  rollouts: 5\n",
            [],
            "rollouts and reinforce.rollouts are one setting, got 3 and 5",
        ),
        ("", ["oracle.frames=3", "oracle_frames=5"], "oracle_frames and oracle.frames are one setting, got 5 and 3"),
        ("rollouts: many", [], "reinforce.rollouts must be int, got 'many'"),
        ("reinforce: 3\nrollouts: 3", [], "reinforce must hold keys"),
    ],
)
def test_mistakes_in_former_names(text: str, overrides: list[str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(TrainConfig, ([str(path)] if text else []) + overrides)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            "estimator=reinforce gumbel.temperature=1.0",
            "gumbel.temperature is read by estimator=gumbel only (estimator is reinforce)",
        ),
        ("estimator=reinforce noise=false", "gumbel.noise is read by estimator=gumbel only (estimator is reinforce)"),
        ("far=0.5", "reinforce.far is read by estimator=reinforce only (estimator is gumbel)"),
        ("warm_start=none oracle.lr=0.1", "oracle.lr is read by warm_start=oracle only (warm_start is none)"),
        (
            "granularity=gate projections=4",
            "projections is read by policy=learned and granularity=frame only (policy is learned, granularity is gate)",
        ),
        ("attention=recompute", "attention is read by granularity=gate only (granularity is frame)"),
        ("prefix=ordinary", "prefix is read by granularity=gate only (granularity is frame)"),
        (
            "estimator=reinforce warm_start=none reward=loss objective.worst=1",
            "objective.worst is read by estimator=gumbel or warm_start=oracle or reward=objective or reward=fidelity "
            "only (estimator is reinforce, warm_start is none, reward is loss)",
        ),
    ],
)
def test_settings_that_nothing_reads_are_refused(settings: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(TrainConfig, settings.split())
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "settings",
    [
        "estimator=reinforce gumbel.temperature=0.6666666666666666 gumbel.noise=true",
        "estimator=reinforce objective.fidelity=2 objective.task=1 warm_start=none",
        "estimator=reinforce objective.worst=1 reward=loss",
        "reward=loss objective.task=1",
        "granularity=gate attention=recompute prefix=ordinary projections=16",
    ],
)
def test_settings_that_are_read_or_defaults_are_not_refused(settings: str) -> None:
    load_config(TrainConfig, settings.split())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("reinforce.rollouts=1", "reinforce.rollouts must be at least 2"),
        ("reinforce.far=1.5", "reinforce.far must be at most 1, got 1.5"),
        ("gumbel.temperature=0", "gumbel.temperature must be above 0, got 0.0"),
        ("oracle.frames=0", "oracle.frames must be at least 1"),
        ("objective.worst=-1", "objective.worst must be at least 0"),
        ("window=0", "window must be at least 1"),
        ("budget_gain=-1", "budget_gain must be at least 0"),
        ("price_momentum=1", "price_momentum must be below 1, got 1.0"),
        ("objective.output=-1", "objective.output must be at least 0"),
    ],
)
def test_values_out_of_range(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(TrainConfig, ["estimator=reinforce", override])


def test_weights_that_are_given_in_part_are_the_defaults_of_before_for_the_rest() -> None:
    assert load_config(TrainConfig, []).objective is None
    assert load_config(TrainConfig, ["objective.worst=0.5"]).objective == Objective(fidelity=1.0, worst=0.5)
    assert load_config(TrainConfig, ["objective.output=2", "objective=null"]).objective is None


def test_rules_to_start_from_are_checked() -> None:
    for override, wrong in (("exponents=[]", "a list of"), ("exponents=[-1]", "at least 0"), ("floors=[0]", "above 0")):
        override = f"saliency_{override}"
        with pytest.raises(UserError, match=f"{override.split('=')[0]} must be {wrong}"):
            check(load_config(TrainConfig, [override]))


def test_help_says_when_a_setting_is_read_and_what_it_was_called(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_config(TrainConfig, ["--help"])
    out = capsys.readouterr().out
    assert "reinforce.rollouts: int in [2, 1000] = 4\n      K, rollouts from each state, at least 2. Read by" in out
    assert "Formerly oracle_frames." in out and "gumbel.noise: bool = True" in out
    undocumented = re.findall(r"\n  ([\w.]+): .*\n(?!      )", out)
    assert not undocumented


def test_a_part_of_a_config() -> None:
    assert part(TrainConfig(budget_gain=0.1), BudgetOptions) == BudgetOptions(budget_gain=0.1)
