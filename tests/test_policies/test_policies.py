"""Heuristic, calibrated and learned policies against closed forms."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from seen import layout, observation

import policies
from policies import Selection
from policies.features import cosine, largest_around, mean_around
from policies.relaxation import bernoulli_entropy, bounded_probability, concrete_mask, log_probability, sample_mask


@given(r=st.integers(0, 20), prefix=st.integers(0, 1), seed=st.integers(0, 99))
def test_top_r_takes_the_largest_errors_and_the_prefix(r: int, prefix: int, seed: int) -> None:
    seen = observation(tokens=12 + prefix, prefix=prefix, seed=seed)
    mask_BN = policies.TopR(r).select(seen).as_mask(seen.layout.tokens)
    assert mask_BN.sum(1).tolist() == [min(r, seen.layout.tokens)] * 2
    if r >= 1 and prefix:
        assert mask_BN[:, 0].all()
    for b in range(2):
        patches, errors = mask_BN[b, prefix:], seen.error_BN[b, prefix:]
        if patches.any() and not patches.all():
            assert errors[patches].min() >= errors[~patches].max()


def test_top_r_of_all_tokens_looks_at_no_errors() -> None:
    seen = observation(tokens=13)
    selection = policies.TopR(20).select(seen)
    assert "error_BN" not in vars(seen) and selection.ranked
    assert selection.index_BM is not None and selection.index_BM.tolist() == [list(range(13))] * 2


def test_threshold_selects_what_exceeds_it_and_adds_changed_prefix_tokens() -> None:
    seen = observation()
    mask_BN = policies.Threshold(3.0).select(seen).as_mask(13)
    assert torch.equal(mask_BN[:, 1:], seen.error_BN[:, 1:] > 3.0)
    assert mask_BN[:, 0].all()


def test_a_static_scene_selects_nothing_not_even_the_prefix() -> None:
    seen = observation(scale=0.0)
    assert not policies.Threshold(0.0).select(seen).as_mask(13).any()


def test_an_unchanged_class_token_goes_along_with_any_other_token() -> None:
    """With one decision per frame its input never changes, but its output does."""
    seen = observation()
    seen.input_BND[:, 0] = seen.reference_BND[:, 0]
    seen.input_BND[1] = seen.reference_BND[1]
    mask_BN = policies.Threshold(3.0).select(seen).as_mask(13)
    assert mask_BN[0, 0] and mask_BN[0, 1:].any()
    assert not mask_BN[1].any()


def test_periodic_selects_everything_when_due() -> None:
    seen = observation()
    seen.age_BN = torch.tensor([[3] * 13, [2] * 13])
    assert policies.Periodic(3).select(seen).as_mask(13).all(1).tolist() == [True, False]


def test_all_and_nothing_and_random() -> None:
    seen = observation()
    assert policies.All().select(seen).as_mask(13).all()
    assert not policies.Nothing().select(seen).as_mask(13).any()
    assert policies.Random(0.5).select(seen).as_mask(13).sum(1).tolist() == [6, 6]
    again = [policies.Random(0.5, seed=3).select(seen).as_mask(13) for _ in range(2)]
    assert torch.equal(*again)


def test_global_top_r_spends_where_errors_are_large_for_their_gate() -> None:
    policy, memory = policies.GlobalTopR(r=4), {}
    counts = torch.zeros(2)
    for frame in range(60):
        for gate in range(2):
            seen = observation(B=1, gate=gate, seed=frame, gates=2, granularity="gate", scale=10.0**gate)
            seen.memory = memory
            counts[gate] += policy.select(seen).as_mask(13).sum() if frame >= 20 else 0
    assert counts.sum() / 40 == pytest.approx(8, rel=0.15)
    assert counts[0] == pytest.approx(float(counts[1]), rel=0.3), "ten times larger errors must not attract all updates"


def test_layout_counts_are_nearest_to_the_budget() -> None:
    at = layout()
    assert at.count(0.5) == 6 or at.count(0.5) == 7
    assert at.counts(torch.tensor([0.0, 1.0, 3 / 13])).tolist() == [0, 13, 3]


def test_untrained_learned_policy_is_the_calibrated_threshold() -> None:
    learned = policies.LearnedPolicy(gates=1, dim=8, budget=0.2)
    learned.table.log_threshold_KG[:, 0] = torch.linspace(1.6, 0.4, 7)
    calibrated = policies.CalibratedThreshold(learned.table, budget=0.2)
    seen = observation()
    chosen = learned.select(seen).as_mask(13)
    assert torch.equal(chosen, calibrated.select(seen).as_mask(13))
    assert 0 < chosen.float().mean() < 1


def test_untrained_learned_policy_by_rank_is_top_r() -> None:
    learned = policies.LearnedPolicy(gates=1, dim=8, budget=5 / 13, select="top")
    seen = observation()
    assert torch.equal(learned.select(seen).as_mask(13), policies.TopR(5).select(seen).as_mask(13))


def test_budgets_per_stream() -> None:
    learned = policies.LearnedPolicy(gates=1, dim=8, select="top")
    learned.budget = torch.tensor([3 / 13, 1.0])
    assert learned.select(observation()).as_mask(13).sum(1).tolist() == [3, 13]
    learned.budget = torch.tensor([0.1, 0.1, 0.1])
    with pytest.raises(ValueError, match="3 entries for 2 streams"):
        learned.select(observation())
    for wrong in (0.0, 1.5, float("nan"), [0.1, -1], "much"):
        with pytest.raises(ValueError, match="budget must be"):
            learned.budget = wrong


def test_feedback_raises_the_threshold_when_too_much_is_spent() -> None:
    learned = policies.LearnedPolicy(gates=1, dim=8, feedback=0.5, budget=0.1)
    learned.table.log_threshold_KG.fill_(1.2)
    memory: dict[str, torch.Tensor] = {}
    selected = []
    for _ in range(3):
        seen = observation()
        seen.memory, seen.share_B = memory, torch.tensor([0.4, 0.1])
        selected.append(learned.select(seen).as_mask(13).sum(1))
    assert selected[2][0] < selected[0][0] and selected[2][1] == selected[0][1]


def test_threshold_table_interpolates_in_log_budget() -> None:
    table = policies.ThresholdTable([0.01, 0.1, 1.0], gates=2)
    table.log_threshold_KG[:, 1] = torch.tensor([3.0, 2.0, 0.0])
    budget_B = torch.tensor([0.01, 0.1**1.5, 0.1, 0.1**0.5, 1.0])
    assert torch.allclose(table(1, budget_B), torch.tensor([3.0, 2.5, 2.0, 1.0, 0.0]), atol=1e-5)
    with pytest.raises(ValueError, match="ascend"):
        policies.ThresholdTable([0.2, 0.1], gates=1)


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    policy = policies.LearnedPolicy(gates=1, dim=8, provenance={"task": {"name": "doom"}}, budgets=[0.1, 0.5])
    torch.nn.init.normal_(policy.out.weight)
    policy.save_pretrained(tmp_path / "policy")
    loaded = policies.load(tmp_path / "policy")
    assert loaded.provenance == policies.Provenance(task="doom") and not loaded.training
    seen = observation()
    assert torch.equal(loaded.score(seen), policy.score(seen))


def test_bad_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(policies.CheckpointError, match=r"no policy checkpoint at .*nowhere"):
        policies.load(tmp_path / "nowhere")
    with pytest.raises(policies.CheckpointError, match=r"has no config\.json"):
        policies.load(tmp_path)
    policies.LearnedPolicy(gates=1, dim=8).save_pretrained(tmp_path / "policy")
    weights = tmp_path / "policy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:40])
    with pytest.raises(policies.CheckpointError, match=r"model\.safetensors is damaged"):
        policies.load(tmp_path / "policy")
    (tmp_path / "policy" / "config.json").write_text("{")
    with pytest.raises(policies.CheckpointError, match="not valid JSON"):
        policies.load(tmp_path / "policy")


def test_config_json_is_plain(tmp_path: Path) -> None:
    policies.LearnedPolicy(gates=36, dim=8, granularity="gate").save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["gates"] == 36


@pytest.mark.parametrize(("gates", "dim", "granularity"), [(2, 8, "gate"), (1, 9, "frame"), (1, 8, "gate")])
def test_a_policy_for_another_model_is_refused(gates: int, dim: int, granularity: str) -> None:
    policy = policies.LearnedPolicy(gates=gates, dim=dim, granularity=granularity)  # type: ignore[arg-type]
    with pytest.raises(policies.PolicyMismatch, match="the model has 1 gates of width 8"):
        policy.select(observation())


def test_a_selection_has_one_form() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        Selection()


def test_concrete_mask_is_hard_with_the_gradient_of_the_sigmoid() -> None:
    logit = torch.tensor([[-2.0, -0.1, 0.1, 2.0]], requires_grad=True)
    mask = concrete_mask(logit, temperature=0.5, noise=False)
    assert mask.tolist() == [[0.0, 0.0, 1.0, 1.0]]
    mask.sum().backward()
    p = torch.sigmoid(logit.detach() / 0.5)
    assert torch.allclose(logit.grad, p * (1 - p) / 0.5)


def test_concrete_mask_selects_with_the_logistic_probability() -> None:
    logit = torch.full((1, 200_000), 0.7)
    rate = concrete_mask(logit, generator=torch.Generator().manual_seed(0)).mean()
    assert rate == pytest.approx(float(torch.sigmoid(torch.tensor(0.7))), abs=0.005)


@given(st.lists(st.floats(-6, 6), min_size=1, max_size=20), st.integers(0, 99))
def test_log_probabilities_and_entropies_are_those_of_torch_distributions(logits: list[float], seed: int) -> None:
    probability = bounded_probability(torch.tensor([logits]), p_min=0.02)
    assert probability.min() >= 0.02 - 1e-6 and probability.max() <= 0.98 + 1e-6
    mask = sample_mask(probability, torch.Generator().manual_seed(seed))
    reference = torch.distributions.Bernoulli(probs=probability)
    assert torch.allclose(log_probability(probability, mask), reference.log_prob(mask.float()), atol=1e-5)
    assert torch.allclose(bernoulli_entropy(probability), reference.entropy(), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_cosine_from_norms_is_the_cosine(dtype: torch.dtype) -> None:
    seen = observation()
    seen.input_BND, seen.reference_BND = seen.input_BND.to(dtype), seen.reference_BND.to(dtype)
    seen.reference_BND[0, 0] = seen.input_BND[0, 0] * 3
    seen.reference_BND[0, 1] = seen.input_BND[0, 1]
    seen.reference_BND[0, 2] = 0
    seen.input_BND[0, 3] = 0
    seen.input_BND[0, 4] = seen.reference_BND[0, 4] = 0
    expected = torch.cosine_similarity(seen.input_BND.double(), seen.reference_BND.double(), dim=-1)
    found = cosine(seen)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float(), atol=1e-2 if dtype == torch.bfloat16 else 1e-6, rtol=0)


@pytest.mark.parametrize("prefix", [0, 2])
def test_neighbourhoods_of_one_feature_and_of_many_are_those_on_the_grid(prefix: int) -> None:
    at = layout(tokens=15 + prefix, prefix=prefix)
    x_BNF = torch.randn(3, at.tokens, 2, generator=torch.Generator().manual_seed(0))
    for around, reduce in ((mean_around, torch.mean), (largest_around, torch.amax)):
        expected = x_BNF.clone()
        grid_BhwF = x_BNF[:, prefix:].unflatten(1, at.grid)
        for y, x in np.ndindex(at.grid):
            near = grid_BhwF[:, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            expected[:, prefix + y * at.grid[1] + x] = reduce(near, (1, 2))
        torch.testing.assert_close(around(x_BNF, at, 3), expected)
        torch.testing.assert_close(around(x_BNF[..., 1], at, 3), expected[..., 1])
