"""How the picture moves, as policies see it."""

from __future__ import annotations

import math

import pytest
import torch
from seen import observation

from policies import LearnedPolicy, PolicyMismatch
from policies.features import motion_features


def test_the_length_of_the_motion_and_what_came_in_over_the_border() -> None:
    seen = observation(tokens=13, prefix=1)
    seen.motion_B2 = torch.tensor([[0.0, 0.0], [-1.0, 2.0]])
    length_BN, entered_BN = motion_features(seen).unbind(-1)
    assert length_BN[0].eq(0).all() and entered_BN[0].eq(0).all()
    assert length_BN[1].tolist() == pytest.approx([math.log1p(math.sqrt(5))] * 13)
    rows, columns = seen.layout.grid
    # Up by one row, right by two columns: the last row and the first two columns are new.
    expected = torch.zeros(rows, columns)
    expected[-1], expected[:, :2] = 1, 1
    assert entered_BN[1, 0] == 0
    assert torch.equal(entered_BN[1, 1:], expected.flatten())


def test_a_policy_that_looks_at_motion_says_so_where_nobody_looks_for_it() -> None:
    policy = LearnedPolicy(1, 8, motion=True)
    with pytest.raises(PolicyMismatch, match=r"how the picture moves.*motion_compensation=True"):
        policy.score(observation())


def test_motion_changes_what_a_policy_thinks_of_a_token() -> None:
    torch.manual_seed(0)
    policy = LearnedPolicy(1, 8, motion=True)
    torch.nn.init.normal_(policy.out.weight)
    scores = []
    for right in (0.0, 1.0):
        seen = observation()
        seen.motion_B2 = torch.tensor([[0.0, right]] * 2)
        scores.append(policy.residual(seen, torch.zeros(2, 13), torch.full((2,), 0.1)))
    assert (scores[0] - scores[1]).abs().min() > 0
