"""Statistics of frontiers against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from train.evaluation.bootstrap import Estimate, means, resample_clips
from train.evaluation.frontier import Frontier


def line(shares: list[float], qualities: list[float], ends: list[float] | None = None) -> Frontier:
    return Frontier(np.array([shares]), np.array([qualities]), None if ends is None else np.array([ends]))


def test_resamples_begin_with_the_sample_and_are_the_same_again():
    draws_RU = resample_clips(6, 100, seed=3)
    assert draws_RU.shape == (101, 6)
    assert draws_RU[0].tolist() == list(range(6))
    assert (draws_RU == resample_clips(6, 100, seed=3)).all()
    assert (draws_RU != resample_clips(6, 100, seed=4)).any()


def test_means_are_weighted():
    found = means([1.0, 3.0], [1, 3], np.array([[0, 1], [0, 0], [1, 1]]))
    assert found.tolist() == [2.5, 1.0, 3.0]


def test_interval_of_a_mean_has_the_closed_form_width():
    values = np.random.default_rng(0).normal(size=200)
    estimate = Estimate.of(means(values, np.ones(200), resample_clips(200, 4000, seed=1)))
    expected = 1.96 * values.std() / np.sqrt(200)
    assert estimate.value == pytest.approx(values.mean())
    assert (estimate.high - estimate.low) / 2 == pytest.approx(expected, rel=0.05)


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws_RU = resample_clips(60, 300, seed=1)
    hits = 0
    for _ in range(300):
        estimate = Estimate.of(means(rng.normal(size=60), np.ones(60), draws_RU))
        hits += estimate.low <= 0 <= estimate.high
    assert 0.90 <= hits / 300 <= 0.98


def test_paired_differences_are_narrower_than_either():
    rng = np.random.default_rng(0)
    clip = rng.normal(size=50)
    draws_RU = resample_clips(50, 500, seed=1)
    ours = means(clip + 0.1 + 0.01 * rng.normal(size=50), np.ones(50), draws_RU)
    theirs = means(clip, np.ones(50), draws_RU)
    difference, alone = Estimate.of(ours - theirs), Estimate.of(ours)
    assert difference.high - difference.low < 0.05 * (alone.high - alone.low)
    assert difference.verdict(higher_is_better=True) == "win"
    assert difference.verdict(higher_is_better=False) == "loss"
    assert Estimate.of(theirs).verdict(higher_is_better=True) == "tie"


def test_undefined_resamples_are_left_out_and_infinite_ones_count():
    estimate = Estimate.of(np.array([1.0, 1.0, 2.0, np.nan]))
    assert (estimate.low, estimate.high) == (1.0, 2.0)
    assert Estimate.of(np.array([1.0, 1.0, np.inf])).high == np.inf
    assert np.isnan(Estimate.of(np.array([1.0])).low)


def test_quality_is_interpolated_in_log_share():
    frontier = line([0.4, 0.1], [3.0, 1.0])
    assert frontier.at(0.2)[0] == pytest.approx(2.0)
    assert frontier.at(0.05)[0] == pytest.approx(1.0)
    ended = line([0.1, 0.4], [1.0, 3.0], ends=[0.025, 0.0, 1.0, 9.0])
    assert ended.at(0.05)[0] == pytest.approx(0.5)
    assert ended.at(1.0)[0] == pytest.approx(9.0)


def test_area_of_straight_and_of_broken_lines():
    assert line([0.1, 0.4], [1.0, 3.0]).area(0.1, 0.4)[0] == pytest.approx(2.0)
    assert line([0.1, 0.4], [1.0, 3.0]).area(0.2, 0.4)[0] == pytest.approx(2.5)
    broken = line([0.1, 0.2, 0.4], [0.0, 1.0, 1.0])
    assert broken.area(0.1, 0.4)[0] == pytest.approx(0.75)


def test_needed_share_is_where_quality_stays():
    assert line([0.1, 0.4], [1.0, 3.0]).needed(np.array([2.0]))[0] == pytest.approx(0.2)
    assert line([0.1, 0.2, 0.4], [5.0, 1.0, 3.0]).needed(np.array([2.0]))[0] == pytest.approx(np.sqrt(0.08))
    assert line([0.1, 0.4], [1.0, 3.0]).needed(np.array([0.5]))[0] == pytest.approx(0.1)
    assert line([0.1, 0.4], [1.0, 3.0]).needed(np.array([4.0]))[0] == np.inf
    distance = line([0.1, 0.4], [0.3, 0.1])
    assert distance.needed(np.array([0.2]), higher_is_better=False)[0] == pytest.approx(0.2)


def test_ends_do_not_count_as_reached():
    ended = line([0.1, 0.4], [1.0, 3.0], ends=[0.01, 0.0, 1.0, 9.0])
    assert ended.needed(np.array([4.0]))[0] == np.inf


def test_every_resample_has_its_own_shares():
    frontier = Frontier(np.array([[0.1, 0.4], [0.2, 0.8]]), np.array([[1.0, 3.0], [1.0, 3.0]]))
    assert frontier.at(0.2).tolist() == pytest.approx([2.0, 1.0])
    assert frontier.area(0.2, 0.4).tolist() == pytest.approx([2.5, 1.5])


def test_impossible_frontiers_are_refused():
    with pytest.raises(ValueError, match="positive"):
        line([0.0, 0.1], [1.0, 2.0])
    with pytest.raises(ValueError, match="points"):
        Frontier(np.zeros((1, 0)), np.zeros((1, 0)))
