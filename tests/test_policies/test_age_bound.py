"""Bounds on age: for any policy, for trainable ones, in runs."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from old_checkpoints import without_checksum
from seen import observation
from tiny_task import TinyTask

import eventful
import policies
from policies import AgeBound
from policies.age_bound import CERTAIN


@given(max_age=st.integers(1, 9), seed=st.integers(0, 50))
def test_the_hard_bound_adds_what_is_due_and_takes_nothing_away(max_age: int, seed: int) -> None:
    seen = observation(seed=seed)
    for policy in (policies.TopR(3), policies.Threshold(3.0), policies.Nothing()):
        alone = policy.select(seen).as_mask(13)
        mask_BN = AgeBound(policy, max_age).select(seen).as_mask(13)
        assert torch.equal(mask_BN[:, 1:], (alone | (seen.age_BN >= max_age))[:, 1:])
        assert (mask_BN[:, 0] >= mask_BN[:, 1:].any(1)).all()


def test_the_soft_bound_adds_a_multiple_of_the_log_of_the_age() -> None:
    seen, table = observation(tokens=12, prefix=0), policies.ThresholdTable([0.1], 1)
    table.log_threshold_KG.fill_(2.0)
    mask_BN = AgeBound(policies.CalibratedThreshold(table), slope=0.7).select(seen).as_mask(12)
    assert torch.equal(mask_BN, seen.error_BN.log() + 0.7 * seen.age_BN.log() > 2.0)
    plain = policies.CalibratedThreshold(table).select(seen).as_mask(12)
    assert (mask_BN >= plain).all() and (mask_BN > plain).any()


def test_it_is_the_policy_in_all_other_respects() -> None:
    inner = policies.KeySimilarity(policies.ThresholdTable([0.1, 0.5], 1), budget=0.2)
    bounded, seen = AgeBound(inner, max_age=8), observation()
    bounded.budget = 0.4
    assert inner.budget == bounded.budget == 0.4
    assert bounded.name == "KeySimilarity+age" and bounded.macs(seen.layout) == inner.macs(seen.layout)
    assert {name for name, _ in bounded.named_buffers()} >= {"policy.table.log_threshold_KG"}
    with pytest.raises(policies.PolicyMismatch):
        bounded.check(7, 8, "frame")
    with pytest.raises(AttributeError, match="has no budget"):
        AgeBound(policies.TopR(3), 5).budget = 0.2


def test_bounds_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="max_age \\(hard\\), slope \\(soft\\) or both"):
        AgeBound(policies.TopR(3))
    with pytest.raises(ValueError, match="max_age must be a number of frames"):
        AgeBound(policies.TopR(3), 0)
    with pytest.raises(ValueError, match="slope must be at least 0"):
        AgeBound(policies.TopR(3), 4, slope=-1.0)
    with pytest.raises(ValueError, match=r"slope needs a policy with scores .*TopR has not"):
        AgeBound(policies.TopR(3), slope=0.5)
    with pytest.raises(ValueError, match="max_age must be a number of frames"):
        policies.LearnedPolicy(1, 8, max_age=0)


@settings(max_examples=8, deadline=None)
@given(max_age=st.integers(1, 5), granularity=st.sampled_from(["frame", "gate"]))
def test_no_token_of_a_run_is_older_than_the_bound(max_age: int, granularity: str) -> None:
    task = TinyTask(lengths=(12, 12))
    frames = [task.preprocess(torch.stack([c.frames_THWC[t] for c in task.clips("test")])) for t in range(12)]
    gates = 1 if granularity == "frame" else 6
    learned = policies.LearnedPolicy(gates, 32, granularity, max_age=max_age)  # type: ignore[arg-type]
    learned.table.log_threshold_KG.fill_(9.0)
    for policy in (AgeBound(policies.Random(0.1), max_age), AgeBound(policies.Nothing(), max_age), learned):
        model = eventful.wrap(task.model, policy, granularity=granularity)  # type: ignore[arg-type]
        oldest = 0
        with torch.inference_mode():
            for frame in frames:
                model(frame)
                assert model.state is not None
                oldest = max(oldest, int(model.state.ages().max()))
        assert oldest <= max_age - 1
        assert oldest == max_age - 1 or not isinstance(policy, policies.LearnedPolicy)


def test_a_trainable_policy_selects_what_is_due_by_threshold_and_by_rank() -> None:
    seen = observation()
    due_BN = seen.age_BN >= 6
    for select in ("threshold", "top"):
        free = policies.LearnedPolicy(1, 8, select=select, budget=0.2)  # type: ignore[arg-type]
        bounded = policies.LearnedPolicy(1, 8, select=select, budget=0.2, max_age=6)  # type: ignore[arg-type]
        bounded.load_state_dict(free.state_dict())
        for policy in (free, bounded):
            policy.table.log_threshold_KG.fill_(1.3)
        expected = free.select(seen).as_mask(13) | due_BN
        assert torch.equal(bounded.select(seen).as_mask(13)[:, 1:], expected[:, 1:])


def test_what_is_due_is_certain_in_training_and_has_no_gradient() -> None:
    seen, budget_B = observation(), torch.tensor([0.1, 0.2])
    policy = policies.LearnedPolicy(1, 8, max_age=6)
    logit_BN = policy.logit(seen, budget_B)
    due_BN = seen.age_BN >= 6
    assert (logit_BN[due_BN] == CERTAIN).all()
    assert torch.equal(logit_BN[~due_BN], policy.score(seen, budget_B)[~due_BN])
    (gradient,) = torch.autograd.grad(logit_BN[due_BN].sum(), [policy.out.weight])
    assert not gradient.any()
    assert torch.equal(
        policies.LearnedPolicy(1, 8).logit(seen, budget_B), policies.LearnedPolicy(1, 8).score(seen, budget_B)
    )


def test_the_bound_is_saved_and_old_checkpoints_have_none(tmp_path: Path) -> None:
    policies.LearnedPolicy(1, 8, max_age=12).save_pretrained(tmp_path / "new")
    assert policies.load(tmp_path / "new").max_age == 12
    policies.LearnedPolicy(1, 8).save_pretrained(tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    config.pop("max_age", None)
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    loaded = policies.load(without_checksum(tmp_path / "old"))
    assert loaded.max_age is None
    loaded.max_age = 7
    loaded.save_pretrained(tmp_path / "changed")
    assert policies.load(tmp_path / "changed").max_age == 7
