"""What the consumer looked at, as policies see it: neighbourhoods, the weighted error."""

import json
import math
from pathlib import Path

import pytest
import torch
from old_checkpoints import without_checksum
from seen import observation

import policies
from policies import LearnedPolicy
from policies.features import SALIENCY, largest_around, log_error, saliency_features, weighted_log_error


def test_the_weighted_error_is_the_log_error_plus_a_multiple_of_the_log_of_the_saliency_around() -> None:
    seen = observation(tokens=13, prefix=1)
    seen.saliency_BN = torch.zeros(2, 13)
    seen.saliency_BN[:, 0] = 1.0
    seen.saliency_BN[1, 1] = 0.5  # the first patch, in a corner of the grid
    rows, columns = seen.layout.grid
    weighted_BN = weighted_log_error(seen, exponent=2.0, floor=0.1, window=3)
    extra_BN = weighted_BN - log_error(seen)
    assert extra_BN[:, 0].tolist() == pytest.approx([2 * math.log(1.1)] * 2, abs=1e-5)
    expected = torch.full((2, rows, columns), 2 * math.log(0.1))
    expected[1, :2, :2] = 2 * math.log(0.6)
    torch.testing.assert_close(extra_BN[:, 1:], expected.flatten(1), atol=1e-5, rtol=1e-5)


def test_with_exponent_zero_nobody_needs_to_say_what_is_salient() -> None:
    seen = observation()
    assert torch.equal(weighted_log_error(seen, exponent=0.0, floor=0.02), log_error(seen))
    with pytest.raises(policies.PolicyMismatch, match="saliency, which the model does not supply"):
        weighted_log_error(seen, exponent=1.0, floor=0.02)


def test_floors_and_windows_that_do_not_exist_are_refused() -> None:
    seen = observation()
    seen.saliency_BN = torch.ones(2, 13)
    with pytest.raises(ValueError, match="floor must be positive"):
        weighted_log_error(seen, exponent=1.0, floor=0.0)
    for window in (0, 4):
        with pytest.raises(ValueError, match="must be odd"):
            largest_around(seen.saliency_BN, seen.layout, window)


def looked_at(**kwargs):
    """An observation in which one patch of the second stream has just become interesting."""
    seen = observation(**kwargs)
    seen.saliency_BN = torch.zeros(2, 13)
    seen.saliency_BN[:, 0] = 1.0
    seen.saliency_before_BN = seen.saliency_BN.clone()
    seen.saliency_BN[1, 1] = 0.48
    return seen


def test_features_of_saliency_by_hand() -> None:
    seen = looked_at()
    rows, columns = seen.layout.grid
    low, high = ((math.log(s + 0.02) + 2) / 2 for s in (0.0, 0.48))
    features_BNF = saliency_features(seen)
    assert features_BNF.shape == (2, 13, len(SALIENCY))
    own, near, far, change = features_BNF[1, 1:].unbind(-1)
    assert own[0] == pytest.approx(high) and own[1:].tolist() == pytest.approx([low] * 11)
    for grid, reach in ((near, 2), (far, 3)):
        expected = torch.full((rows, columns), low)
        expected[:reach, :reach] = high
        torch.testing.assert_close(grid.view(rows, columns), expected)
    assert change[0] == pytest.approx(high - low) and change[1:].abs().max() == 0
    assert features_BNF[0, 1:, 3].abs().max() == 0
    assert float(features_BNF.abs().max()) < 2
    seen.saliency_BN = seen.saliency_before_BN = None
    assert saliency_features(seen).shape == (2, 13, 4) and not saliency_features(seen).any()


@pytest.mark.parametrize("select", ["threshold", "top"])
def test_the_untrained_policy_is_the_weighted_rule(select) -> None:
    seen = looked_at()
    policy = LearnedPolicy(1, 8, saliency=True, saliency_exponent=2.0, saliency_floor=0.1, select=select, budget=0.3)
    policy.table.log_threshold_KG.fill_(-2.0)
    score_BN = weighted_log_error(seen, 2.0, 0.1)
    torch.testing.assert_close(policy.score(seen), score_BN + 2.0)
    mask_BN = policy.select(seen).as_mask(13)
    if select == "threshold":
        assert torch.equal(mask_BN[:, 1:], score_BN[:, 1:] > -2.0)
        assert mask_BN.any() and not mask_BN.all()
    else:
        expected = policies.Selection.top(score_BN, int(mask_BN[0].sum()), prefix=1).as_mask(13)
        assert torch.equal(mask_BN, expected)


def test_what_policies_see_of_saliency_is_counted() -> None:
    at = observation().layout
    plain, weighted = LearnedPolicy(1, 8), LearnedPolicy(1, 8, saliency_exponent=1.0)
    seeing = LearnedPolicy(1, 8, saliency=True)
    assert weighted.macs(at) - plain.macs(at) == 13 * 26
    assert seeing.macs(at) - plain.macs(at) == 13 * (35 + len(SALIENCY) * 32)


def test_a_policy_that_looks_in_vain_says_so() -> None:
    for policy in (LearnedPolicy(1, 8, saliency=True), LearnedPolicy(1, 8, saliency_exponent=1.0)):
        with pytest.raises(policies.PolicyMismatch, match=r"eventful.wrap\(..., saliency=task.saliency\)"):
            policy.select(observation())
    with pytest.raises(ValueError, match="saliency_exponent must be at least 0, saliency_floor above 0"):
        LearnedPolicy(1, 8, saliency_exponent=-1.0)


def test_checkpoints_keep_it_and_those_of_before_know_nothing_of_it(tmp_path: Path) -> None:
    seen = looked_at()
    policy = LearnedPolicy(1, 8, saliency=True, saliency_exponent=0.5, saliency_floor=0.1)
    policy.provenance = {"objective": {"output": 1.0}}
    torch.nn.init.normal_(policy.out.weight)
    policy.save_pretrained(tmp_path / "new")
    loaded = policies.load(tmp_path / "new")
    assert torch.equal(loaded.score(seen), policy.score(seen))
    assert loaded.provenance.objective == {"output": 1.0}

    before = LearnedPolicy(1, 8)
    torch.nn.init.normal_(before.out.weight)
    before.save_pretrained(tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    for name in ("saliency", "saliency_exponent", "saliency_floor"):
        config.pop(name)
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    loaded = policies.load(without_checksum(tmp_path / "old"))
    assert torch.equal(loaded.score(seen), before.score(seen))
    seen.saliency_BN = None
    assert torch.equal(loaded.score(seen), before.score(seen))
