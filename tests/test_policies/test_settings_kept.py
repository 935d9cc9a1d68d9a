"""Whatever is set on a policy after it was made is there again when it has been saved and loaded, or is refused."""

from __future__ import annotations

import copy
import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import policies
from policies import CheckpointError, LearnedPolicy, ThresholdTable, TrainablePolicy
from train.evaluate_config import policy_digest


class Tempered(TrainablePolicy):
    """With settings of its own: one as it is given, one that is made into something else."""

    def __init__(self, gates: int, dim: int, granularity: Any = "frame", heat: float = 1.0, steps: int = 3, **kw: Any):
        super().__init__(gates, dim, granularity, **kw)
        self.heat, self.steps = heat, math.log(steps)

    def residual(self, observation: Any, relative_BN: torch.Tensor, budget_B: torch.Tensor) -> torch.Tensor:
        return self.heat * relative_BN

    def residual_macs(self, layout: Any) -> float:
        return 0.0


def again(policy: TrainablePolicy, folder: Path) -> Any:
    policy.save_pretrained(folder)
    return policies.load(folder, type(policy))


@pytest.mark.parametrize(
    ("name", "value"),
    [("budget", 0.3), ("select_by", "top"), ("feedback", 0.2), ("max_age", 5), ("card", "# Mine"), ("heat", 2.5)],
)
@pytest.mark.parametrize("how", [lambda p: p, copy.deepcopy, copy.copy, lambda p: pickle.loads(pickle.dumps(p))])
def test_what_is_set_is_saved(name: str, value: Any, how: Any, tmp_path: Path) -> None:
    policy = Tempered(1, 8, max_age=9)
    before = getattr(policy, name)
    copied = how(policy)
    setattr(copied, name, value)
    loaded = again(copied, tmp_path / "a")
    assert getattr(loaded, name) == getattr(again(loaded, tmp_path / "b"), name) == value
    assert copied is policy or getattr(policy, name) == before


def test_a_bound_that_is_lifted_stays_lifted(tmp_path: Path) -> None:
    policy = LearnedPolicy(1, 8, max_age=9)
    policy.max_age = None
    assert again(policy, tmp_path).max_age is None


@pytest.mark.parametrize(
    ("name", "value", "error", "said"),
    [
        ("gates", 3, AttributeError, "gates cannot be changed"),
        ("granularity", "gate", AttributeError, "granularity cannot be changed"),
        ("saliency_exponent", 1.0, AttributeError, "saliency_exponent cannot be changed: make a new policy"),
        ("saliency_floor", 0.1, AttributeError, "saliency_floor cannot be changed"),
        ("saliency", True, AttributeError, "saliency cannot be changed"),
        ("motion", True, AttributeError, "motion cannot be changed"),
        ("select", "top", AttributeError, "select_by = 'top'"),
        ("select_by", "tpo", ValueError, "select must be one of threshold, top, got 'tpo'"),
        ("feedback", math.nan, ValueError, "feedback must be a number from 0"),
        ("max_age", 0, ValueError, "max_age must be a number of frames"),
        ("budget", 2.0, ValueError, "budget must be a share"),
    ],
)
def test_what_cannot_be_set_is_refused_at_once(name: str, value: Any, error: Any, said: str) -> None:
    policy = LearnedPolicy(1, 8)
    with pytest.raises(error, match=said):
        setattr(policy, name, value)
    policy.granularity, policy.saliency = "frame", False  # what they are


def test_settings_that_no_argument_tells_are_not_lost_without_a_word(tmp_path: Path) -> None:
    policy = Tempered(1, 8, steps=4)
    assert again(policy, tmp_path / "a").steps == math.log(4)
    policy.steps = 2.0
    with pytest.raises(CheckpointError, match=r"cannot be saved: steps was changed from 1\.38.* to 2\.0.* steps=4"):
        policy.save_pretrained(tmp_path / "b")


def test_tensors_that_the_settings_do_not_make_are_not_saved(tmp_path: Path) -> None:
    policy = LearnedPolicy(1, 8)
    policy.hidden = nn.Linear(policy.hidden.in_features, 5)
    with pytest.raises(CheckpointError, match=r"settings make another one: hidden\.\w+ is \(5"):
        policy.save_pretrained(tmp_path)


def test_another_table_brings_its_budgets(tmp_path: Path) -> None:
    policy = LearnedPolicy(1, 8)
    policy.table = ThresholdTable([0.2, 0.4, 1.0], 1)
    policy.table.log_threshold_KG[:, 0] = torch.tensor([3.0, 2.0, 1.0])
    loaded = again(policy, tmp_path)
    assert loaded.table.budgets == [0.2, 0.4, 1.0] and loaded.table.log_threshold_KG[:, 0].tolist() == [3, 2, 1]
    assert json.loads((tmp_path / "config.json").read_text())["budgets"] == [0.2, 0.4, 1.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_policy_of_another_type_can_be_loaded_again(dtype: torch.dtype, tmp_path: Path) -> None:
    loaded = again(LearnedPolicy(1, 8).to(dtype), tmp_path)
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}


def test_a_card_of_ones_own_replaces_the_one_that_was_there(tmp_path: Path) -> None:
    policy = again(LearnedPolicy(1, 8), tmp_path)
    policy.card = "# Mine"
    assert again(policy, tmp_path).card == "# Mine"
    policy = policies.load(tmp_path)
    (tmp_path / "README.md").write_text("# Edited since")
    policy.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# Edited since"


def test_saving_draws_no_random_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    policy = LearnedPolicy(1, 8)
    expected = torch.rand(1, generator=torch.Generator().set_state(torch.get_rng_state()))
    policy.save_pretrained(tmp_path)
    assert torch.equal(torch.rand(1), expected)


def test_evaluations_tell_settings_of_ones_own_apart() -> None:
    policy, other = Tempered(1, 8), Tempered(1, 8)
    assert policy_digest(policy) == policy_digest(other)
    other.budget = 0.4
    assert policy_digest(policy) == policy_digest(other), "an evaluation sets the budgets itself"
    other.heat = 2.0
    assert policy_digest(policy) != policy_digest(other)


def test_the_card_of_a_policy_that_nobody_has_evaluated_claims_nothing(tmp_path: Path) -> None:
    Tempered(1, 8).save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "license: apache-2.0" in card and "has not been measured" in card
    assert "pushed" not in card and "More Information" not in card
