"""Rules that look at saliency or at the cosine, against closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from seen import observation

import policies
from policies import GateObservation, PolicyMismatch, ThresholdTable
from policies.features import weighted_log_error
from policies.saliency import most_salient


def looked(seed: int = 0, **kwargs) -> GateObservation:
    seen = observation(seed=seed, **kwargs)
    generator = torch.Generator().manual_seed(seed + 1)
    seen.saliency_BN = torch.rand(seen.input_BND.shape[:2], generator=generator)
    seen.saliency_BN[:, : seen.layout.prefix] = 1.0
    return seen


def table(log_h: float, gates: int = 1) -> ThresholdTable:
    found = ThresholdTable([0.1], gates)
    found.log_threshold_KG.fill_(log_h)
    return found


def falling_table() -> ThresholdTable:
    found = ThresholdTable([0.1, 0.3, 0.6], 1)
    found.log_threshold_KG[:, 0] = torch.tensor([1.5, 0.5, -1.0])
    return found


def rules(at: ThresholdTable) -> list[policies.ScoreThreshold]:
    return [
        policies.CalibratedThreshold(at),
        policies.SaliencyThreshold(at, exponent=0.5, floor=0.1),
        policies.SaliencyOrSurprise(at, salient=0.2, max_age=6),
        policies.KeySimilarity(at),
    ]


def test_the_saliency_threshold_is_on_the_weighted_error() -> None:
    seen = looked()
    mask_BN = policies.SaliencyThreshold(table(1.2), exponent=2.0, floor=0.1).select(seen).as_mask(13)
    expected_BN = weighted_log_error(seen, exponent=2.0, floor=0.1) > 1.2
    assert torch.equal(mask_BN[:, 1:], expected_BN[:, 1:])
    assert 0 < mask_BN.float().mean() < 1


@given(r=st.integers(0, 15), seed=st.integers(0, 99))
def test_saliency_top_r_takes_the_largest_weighted_errors(r: int, seed: int) -> None:
    seen = looked(seed)
    mask_BN = policies.SaliencyTopR(r, exponent=1.0, floor=0.02).select(seen).as_mask(13)
    assert mask_BN.sum(1).tolist() == [min(r, 13)] * 2
    score_BN = weighted_log_error(seen, exponent=1.0, floor=0.02)
    for b in range(2):
        patches, scores = mask_BN[b, 1:], score_BN[b, 1:]
        if patches.any() and not patches.all():
            assert scores[patches].min() >= scores[~patches].max()


def test_saliency_decides_between_equal_changes() -> None:
    seen = observation(tokens=12, prefix=0)
    seen.input_BND = seen.reference_BND + 1.0
    seen.saliency_BN = torch.zeros(2, 12)
    seen.saliency_BN[:, 11] = 1.0  # a corner: its 5x5 neighbourhood is the 3x3 tokens of its side of the grid
    mask_BN = policies.SaliencyTopR(9, exponent=1.0, floor=0.02).select(seen).as_mask(12)
    assert torch.equal(mask_BN[0].view(3, 4), torch.tensor([[False, True, True, True]] * 3))


def test_salient_or_surprising_or_old() -> None:
    seen = looked(tokens=12, prefix=0)
    assert seen.saliency_BN is not None
    seen.saliency_BN.zero_()
    seen.saliency_BN[:, 0] = 1.0
    seen.input_BND = seen.reference_BND + torch.zeros(12, 1).index_fill(0, torch.tensor([3]), 5.0)
    seen.age_BN = torch.ones(2, 12, dtype=torch.int32)
    seen.age_BN[:, 7] = 4
    corner = {0, 1, 2, 4, 5, 6, 8, 9, 10}
    for salient, max_age, expected in ((0.75, None, corner | {3}), (0.0, 4, {3, 7}), (0.75, 4, corner | {3, 7})):
        rule = policies.SaliencyOrSurprise(table(math.log(2.0)), salient=salient, max_age=max_age)
        assert set(rule.select(seen).as_mask(12)[0].nonzero().flatten().tolist()) == expected


def test_a_saliency_that_is_alike_everywhere_selects_nothing() -> None:
    seen = looked()
    seen.saliency_BN = torch.ones(2, 13)
    assert not most_salient(seen, 0.5).any()


@given(share=st.floats(0, 0.99), seed=st.integers(0, 99))
def test_at_most_the_asked_share_is_salient(share: float, seed: int) -> None:
    mask_BN = most_salient(looked(seed), share)
    assert (mask_BN.sum(1) <= round(share * 12)).all() and not mask_BN[:, 0].any()


def test_key_similarity_is_a_threshold_on_the_cosine() -> None:
    seen = observation(tokens=12, prefix=0)
    cosine_BN = torch.cosine_similarity(seen.input_BND, seen.reference_BND, dim=-1)
    rule = policies.KeySimilarity(table(math.log(1 - 0.2)))
    torch.testing.assert_close(rule.score(seen).exp(), 1 - cosine_BN, atol=1e-5, rtol=1e-5)
    assert torch.equal(rule.select(seen).as_mask(12), cosine_BN < 0.2)
    longer = observation(tokens=12, prefix=0)
    longer.input_BND = 3 * longer.reference_BND
    assert not rule.select(longer).as_mask(12).any(), "a change of length alone is none"
    assert rule.macs(seen.layout) > 0


@given(low=st.floats(0.05, 0.9), more=st.floats(0.01, 0.5), seed=st.integers(0, 50))
def test_a_larger_budget_selects_at_least_the_same_tokens(low: float, more: float, seed: int) -> None:
    seen = looked(seed)
    for rule in rules(falling_table()):
        chosen = []
        for budget in (low, min(low + more, 1.0)):
            rule.budget = budget
            chosen.append(rule.select(seen).as_mask(13))
        assert (chosen[0] <= chosen[1]).all(), rule.name


@given(seed=st.integers(0, 50))
def test_a_batch_is_its_streams(seed: int) -> None:
    seen = looked(seed, B=3)
    names = ("input_BND", "reference_BND", "age_BN", "saliency_BN")
    for rule in [*rules(falling_table()), policies.SaliencyTopR(5)]:
        together = rule.select(seen).as_mask(13)
        for b in range(3):
            one = looked(seed, B=3)
            for name in names:
                setattr(one, name, getattr(seen, name)[b : b + 1])
            assert torch.equal(rule.select(one).as_mask(13)[0], together[b]), rule.name


def test_without_saliency_they_say_what_is_missing() -> None:
    seen = observation()
    for rule in (policies.SaliencyThreshold(table(0)), policies.SaliencyTopR(3), policies.SaliencyOrSurprise(table(0))):
        with pytest.raises(PolicyMismatch, match="saliency, which the model does not supply"):
            rule.select(seen)


def test_arguments_out_of_range_are_refused() -> None:
    for wrong in ({"exponent": 0.0}, {"floor": 0.0}, {"exponent": -1.0}):
        with pytest.raises(ValueError, match="exponent and floor must be above 0"):
            policies.SaliencyThreshold(table(0), **wrong)
        with pytest.raises(ValueError, match="exponent and floor must be above 0"):
            policies.SaliencyTopR(3, **wrong)
    with pytest.raises(ValueError, match="r must be at least 0"):
        policies.SaliencyTopR(-1)
    with pytest.raises(ValueError, match="salient must be a share"):
        policies.SaliencyOrSurprise(table(0), salient=1.0)
    with pytest.raises(ValueError, match="max_age must be a number of frames"):
        policies.SaliencyOrSurprise(table(0), max_age=0)
    with pytest.raises(PolicyMismatch, match="thresholds are for 3 gates"):
        policies.KeySimilarity(table(0, gates=3)).check(1, 8, "frame")
