"""The contract for policies that are trained: a network of one's own, settings that survive, records that are read."""

import json
import sys
from pathlib import Path

import pytest
import torch
from old_checkpoints import without_checksum
from seen import observation
from torch import nn

import policies
from policies import CheckpointError, LearnedPolicy, Provenance, TrainablePolicy


class Biased(TrainablePolicy):
    """A number for each gate."""

    def __init__(self, gates, dim, granularity="frame", start=0.0, **settings):
        super().__init__(gates, dim, granularity, **settings)
        self.value_G = nn.Parameter(torch.full((gates,), float(start)))

    def residual(self, observation, relative_BN, budget_B):
        return self.value_G[observation.gate].expand_as(relative_BN)

    def residual_macs(self, layout):
        return float(layout.tokens)


def test_the_untrained_policy_is_the_calibrated_threshold_and_the_residual_is_added() -> None:
    seen, policy = observation(), Biased(1, 8, budget=0.2)
    calibrated = policies.CalibratedThreshold(policy.table, budget=0.2)
    policy.table.log_threshold_KG.fill_(1.2)
    assert torch.equal(policy.select(seen).as_mask(13), calibrated.select(seen).as_mask(13))
    with torch.no_grad():
        before = policy.score(seen)
        policy.value_G.fill_(0.7)
    torch.testing.assert_close(policy.score(seen), before + 0.7)
    policy.score(seen).sum().backward()
    assert policy.value_G.grad is not None and policy.log_weight_G.grad is not None


def test_a_class_of_ones_own_is_saved_and_loaded_by_whoever_names_it(tmp_path: Path) -> None:
    policy = Biased(2, 8, "gate", start=0.5, budgets=[0.1, 0.4], provenance={"task": {"name": "doom"}})
    policy.save_pretrained(tmp_path)
    loaded = policies.load(tmp_path, Biased)
    assert isinstance(loaded, Biased) and loaded.value_G.tolist() == [0.5, 0.5]
    assert loaded.table.log_budget_K.exp().tolist() == pytest.approx([0.1, 0.4])
    assert loaded.provenance.task == "doom" and loaded.provenance.policy.endswith("test_trainable:Biased")
    with pytest.raises(CheckpointError, match=r"is a policy of class .*:Biased, not LearnedPolicy: give its class"):
        policies.load(tmp_path)
    LearnedPolicy(1, 8).save_pretrained(tmp_path / "learned")
    with pytest.raises(CheckpointError, match="is a policy of class LearnedPolicy, not"):
        policies.load(tmp_path / "learned", Biased)


def test_a_checkpoint_never_decides_what_is_imported(tmp_path: Path) -> None:
    LearnedPolicy(1, 8).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["provenance"]["policy"] = "antigravity:Policy"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="antigravity"):
        policies.load(tmp_path)
    assert "antigravity" not in sys.modules


def test_settings_that_were_changed_are_saved(tmp_path: Path) -> None:
    policy = LearnedPolicy(1, 8)
    policy.budget, policy.select_by, policy.feedback = [0.2, 0.4], "top", 0.05
    policy.provenance = {"task": {"name": "doom", "frames": 8}, "options": {"granularity": "frame"}}
    policy.save_pretrained(tmp_path)
    loaded = policies.load(tmp_path)
    assert torch.equal(loaded.budget, torch.tensor([0.2, 0.4])) and loaded.select_by == "top"
    assert loaded.feedback == 0.05 and loaded.provenance == policy.provenance
    loaded.budget = 0.3
    loaded.save_pretrained(tmp_path / "again")
    assert policies.load(tmp_path / "again").budget == 0.3


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({"format": 7}, r"format 7, this version reads 1"),
        (["doom"], "must be a table"),
        ({"task": "doom"}, "must hold tables"),
        ({"task": {"name": "doom", "weights": Path("w.pth")}}, "plain data"),
    ],
)
def test_records_that_cannot_be_read_are_named(value, match) -> None:
    with pytest.raises(ValueError, match=match):
        Provenance.of(value)


def test_an_unknown_format_on_disk_ends_with_one_line(tmp_path: Path) -> None:
    LearnedPolicy(1, 8).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["provenance"]["format"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json: provenance has format 2.*update") as caught:
        policies.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_checkpoints_of_version_0_1_load(tmp_path: Path) -> None:
    """Their record has no format, their settings no budget that was set later, their tensors no checksum."""
    LearnedPolicy(1, 8).save_pretrained(tmp_path)
    without_checksum(tmp_path)
    old = {
        "gates": 1, "dim": 8, "granularity": "frame", "hidden": 32, "projections": 8, "select": "threshold",
        "budget": 0.1, "feedback": 0.0, "budgets": [0.03, 0.05, 0.1, 0.2, 0.35, 0.5, 0.8],
        "provenance": {"task": {"name": "distill", "model": "test_vit"}, "options": {"granularity": "frame"}},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(old))
    found = policies.load(tmp_path).provenance
    assert (found.task, found.task_options) == ("distill", {"model": "test_vit"})
    assert found.options == {"granularity": "frame"} and found.policy == ""


def test_policies_without_a_budget_refuse_one() -> None:
    for policy in (policies.TopR(3), policies.Threshold(1.0), policies.All(), policies.GlobalTopR(2)):
        assert policy.budget is None
        with pytest.raises(AttributeError, match=f"{policy.name} has no budget to set"):
            policy.budget = 0.3


def test_the_calibrated_threshold_takes_a_budget_for_each_stream() -> None:
    table = policies.ThresholdTable([0.1, 0.9], gates=1)
    table.log_threshold_KG[:, 0] = torch.tensor([3.0, -3.0])
    seen = observation()
    policy = policies.CalibratedThreshold(table, torch.tensor([0.1, 0.9]))
    assert policy.select(seen).as_mask(13).sum(1).tolist() == [1, 13], "the changed class token goes along"
    for wrong in (0.0, float("nan"), -0.1, [0.5, 2.0]):
        with pytest.raises(ValueError, match=r"in \(0, 1\]"):
            policy.budget = wrong
    with pytest.raises(policies.PolicyMismatch, match="thresholds are for 1 gates, the model has 6"):
        policy.check(6, 8, "gate")


def test_its_own_cost_is_part_of_what_a_ranking_policy_spends() -> None:
    seen = observation()
    layout = policies.Layout(13, 1, (3, 4), 8, 1, "frame", tuple(m / 13 for m in range(14)), dense=130.0)
    seen.layout = layout
    policy = Biased(1, 8, select="top", budget=6 / 13)
    assert policy.share(layout) == pytest.approx(0.1)
    assert policy.select(seen).as_mask(13).sum(1).tolist() == [5, 5], "the nearest to what is left of the budget"


@pytest.mark.parametrize("kind", [list, tuple, torch.tensor, lambda b: torch.tensor(b).numpy()])
def test_a_budget_for_each_stream_may_come_in_any_form(kind) -> None:
    policy = Biased(1, 8, select="top", budget=kind([0.1, 0.9]))
    assert policy.select(observation()).as_mask(13).sum(1).tolist() == [1, 12]
    policy.budget = 0.5
    policy.budget = kind([0.9, 0.1])
    assert policy.select(observation()).as_mask(13).sum(1).tolist() == [12, 1]
    for wrong in (True, "0.1", ["0.1"], None):
        with pytest.raises(ValueError, match="budget must be a number"):
            policy.budget = wrong


@pytest.mark.parametrize("seed", range(5))
def test_ties_are_broken_in_a_batch_as_in_a_single_stream(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    score_BN = torch.randint(0, 3, (4, 200), generator=draw).float()
    r_B = torch.randint(0, 200, (4,), generator=draw)
    for prefix in (0, 2):
        batch_BN = policies.Selection.top_counts(score_BN, r_B, prefix).as_mask(200)
        for b, r in enumerate(r_B.tolist()):
            alone_1N = policies.Selection.top(score_BN[b : b + 1], r, prefix).as_mask(200)
            assert torch.equal(batch_BN[b : b + 1], alone_1N), (b, r)
