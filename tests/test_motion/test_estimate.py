"""The motion of a picture as a whole, from pictures that were moved by a known amount."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from panning import PATCH, panorama, view

from eventful.motion.estimate import global_motion, small_picture

GRID = (12, 16)


def picture(row: int, column: int, seed: int = 0) -> torch.Tensor:
    return small_picture(view(panorama(seed), row, column, GRID), GRID)


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(-20, 20), columns=st.integers(-20, 20), seed=st.integers(0, 3))
def test_a_known_motion_is_found_within_an_eighth_of_a_token(rows: int, columns: int, seed: int) -> None:
    before, now = picture(64, 64, seed), picture(64 + rows, 64 + columns, seed)
    # The camera moves down and right, so what it sees moves up and left.
    expected = -torch.tensor([[rows / PATCH, columns / PATCH]])
    torch.testing.assert_close(global_motion(now, before), expected, atol=1 / 8, rtol=0)


def test_a_standing_picture_does_not_move() -> None:
    still = picture(64, 64)
    assert global_motion(still, still).abs().max() < 1e-3


@pytest.mark.parametrize("other", ["another place", "a blank picture", "two blank pictures"])
def test_no_motion_between_pictures_that_have_nothing_in_common(other: str) -> None:
    before, now = picture(64, 64, seed=0), picture(64, 64, seed=1)
    if other != "another place":
        now = torch.zeros_like(now)
    if other == "two blank pictures":
        before = torch.zeros_like(before)
    assert global_motion(now, before).abs().max() == 0


def test_streams_are_looked_at_one_by_one() -> None:
    before = torch.cat([picture(64, 64, seed) for seed in range(3)])
    now = torch.cat([picture(64 + 8 * seed, 64 - 3 * seed, seed) for seed in range(3)])
    singly = [global_motion(now[b : b + 1], before[b : b + 1]) for b in range(3)]
    torch.testing.assert_close(global_motion(now, before), torch.cat(singly))


def test_another_brightness_is_no_motion() -> None:
    before, now = picture(64, 64), picture(64 + PATCH, 64)
    torch.testing.assert_close(global_motion(now * 0.5 + 0.3, before), global_motion(now, before), atol=1e-3, rtol=0)


def test_motion_beyond_a_quarter_of_the_picture_is_not_believed() -> None:
    far = 4 * PATCH
    assert global_motion(picture(64 + far, 64), picture(64, 64)).abs().max() == 0
