"""What the consumer looked at, as policies see it: neighbourhoods, the weighted error."""

import math

import pytest
import torch
from seen import observation

import policies
from policies.features import largest_around, log_error, weighted_log_error


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
