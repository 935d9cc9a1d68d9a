"""A frame rate is held by turning the budget, on machines of any speed and under loads that come and go."""

from __future__ import annotations

import itertools
import json
import random
import re
import statistics
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pytest
from footage import write_video

import policies
from eventful import infer
from eventful.errors import UserError
from eventful.live.pace import LEAST, Pace, window_rates

Load = Callable[[float], float]


def drive(
    pace: Pace, fixed: float, cost: float, load: Load, until: float, noise: float = 0.05, content: float = 0.2
) -> tuple[list[float], list[float]]:
    """Seconds and budgets of frames that cost `fixed + cost * share` times the load, on a machine that is not exact."""
    chance = random.Random(0)
    seconds, budgets, now = [], [], 0.0
    pace.note(2 * (fixed + cost), 1.0, flush=True)
    while now < until:
        share = min(1.0, pace.budget * chance.lognormvariate(0, content))
        took = (fixed + cost * share) * load(now) * chance.lognormvariate(0, noise)
        seconds.append(took)
        budgets.append(pace.budget)
        pace.note(took, share)
        now += took
    return seconds, budgets


@pytest.mark.parametrize(("rate", "fixed", "cost"), [(10, 0.02, 0.4), (20, 0.005, 0.2), (15, 0.03, 0.2)])
def test_the_rate_is_held_within_a_tenth_while_a_load_comes_and_goes(rate: float, fixed: float, cost: float) -> None:
    seconds, budgets = drive(Pace(rate), fixed, cost, lambda now: 1.8 if 8 < now < 16 else 1.0, until=24)
    for first, last in [(1, 8), (9, 16), (17, 24)]:
        rates = window_rates(list(accumulate(seconds)), first, last)
        assert rates and all(abs(found / rate - 1) <= 0.1 for found in rates)
    alone, beside = (
        statistics.median(b for b, end in zip(budgets, accumulate(seconds), strict=True) if first < end < last)
        for first, last in [(3, 8), (11, 16)]
    )
    assert beside < 0.7 * alone, "the load is paid for by a smaller budget"


@pytest.mark.parametrize("rate", [10, 50])
def test_who_was_early_at_the_whole_budget_is_not_made_late(rate: float) -> None:
    """For eight seconds the machine is faster than asked whatever the budget; then it no longer is."""
    seconds, _ = drive(Pace(rate), 0.2 / rate, 1.0 / rate, lambda now: 0.6 if now < 8 else 1.0, until=16)
    rates = window_rates(list(accumulate(seconds)), 9, 16)
    assert rates and all(abs(found / rate - 1) <= 0.1 for found in rates)


@pytest.mark.parametrize("rate", [5, 15, 50])
def test_the_first_seconds_are_held_though_the_first_frame_says_little(rate: float) -> None:
    """Kernels are made in the first frame, and the machine is slow for some more."""
    seconds, _ = drive(Pace(rate), 0.3 / rate, 0.9 / rate, lambda now: 1.5 if now < 0.15 else 1.0, until=6)
    rates = window_rates(list(accumulate(seconds)), 1, 6)
    assert rates and all(abs(found / rate - 1) <= 0.1 for found in rates)


@pytest.mark.parametrize("rate", [2, 10, 25, 50])
@pytest.mark.parametrize("wrong", [1 / 3, 3.0])
def test_it_does_not_oscillate_though_costs_are_misjudged(rate: float, wrong: float) -> None:
    """A hidden factor between the share that is told and the one that costs: the budget still comes to rest."""
    pace = Pace(rate)
    for _ in range(int(8 * rate) + 40):
        pace.note(0.2 / rate + 2.0 / rate * pace.budget, min(pace.budget * wrong, 1.0))
    assert pace.budget == pytest.approx(0.4, rel=1e-2)


def test_frames_move_the_budget_less_than_their_contents_move_the_share() -> None:
    _, budgets = drive(Pace(50), 0.006, 0.03, lambda _: 1.0, until=12, content=0.5)
    steps = [abs(b / a - 1) for a, b in itertools.pairwise(budgets[50:])]
    assert statistics.median(steps) < 0.05


def test_windows_begin_and_end_with_frames() -> None:
    ends = [0.5, 1.0, 1.5, 2.0, 3.0, 4.0]
    assert window_rates(ends, 0.5, 4.0, 1.0) == pytest.approx([2.0, 2.0, 2 / 1.5, 1.0, 1.0])
    assert window_rates(ends, 1.6, 3.0, 1.0) == pytest.approx([1.0])
    assert window_rates(ends, 0.0, 1.0, 2.0) == []


def test_without_noise_the_budget_comes_to_rest() -> None:
    _, budgets = drive(Pace(10), 0.02, 0.4, lambda _: 1.0, until=12, noise=0, content=0)
    rest = budgets[len(budgets) // 2 :]
    assert max(rest) - min(rest) < 1e-3
    assert rest[-1] == pytest.approx(0.2, abs=1e-3)


@pytest.mark.parametrize(("cost", "expected"), [(10.0, LEAST), (1e-4, 1.0)])
def test_what_cannot_be_held_ends_at_the_smallest_or_the_whole_budget(cost: float, expected: float) -> None:
    _, budgets = drive(Pace(10), 0.02, cost, lambda _: 1.0, until=10)
    assert budgets[-1] == pytest.approx(expected)


def test_one_hiccup_moves_little_and_is_forgotten() -> None:
    pace = Pace(10)
    drive(pace, 0.02, 0.4, lambda _: 1.0, until=6, noise=0, content=0)
    before = pace.budget
    pace.note(0.35, before)
    assert before / 1.5 < pace.budget < before, "what is late is made up for, in small steps"
    _, budgets = drive(pace, 0.02, 0.4, lambda _: 1.0, until=2, noise=0, content=0)
    assert budgets[-1] == pytest.approx(before, rel=0.02)


def test_what_was_held_is_said() -> None:
    pace = Pace(10)
    drive(pace, 0.02, 0.4, lambda _: 1.0, until=11.5, noise=0, content=0)
    assert pace.summary().startswith(
        "10 frames/s were asked for: held within 10% in 5 of 5 windows of 2 s, mean budget"
    )


@pytest.mark.parametrize(
    ("cost", "said"), [(0.01, "0 of 5 windows of 2 s, faster at the whole budget in"), (20.0, "slower at the smallest")]
)
def test_it_is_said_where_no_budget_would_help(cost: float, said: str) -> None:
    pace = Pace(10)
    drive(pace, 0.02, cost, lambda _: 1.0, until=11.5, noise=0, content=0)
    assert re.sub(r"\d+ of \d+", "0 of 5", pace.summary()).count(said) == 1


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_is_positive(rate: float) -> None:
    with pytest.raises(UserError, match="frame rate must be positive"):
        Pace(rate)


def test_a_video_is_run_at_a_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = write_video(tmp_path / "a.mp4", 12)
    command = [str(video), "--device", "cpu", "--policy", "doom", "--fps", "10000", "--json", str(tmp_path / "rows")]
    with pytest.raises(SystemExit) as ended:
        infer.main(command)
    assert ended.value.code == 0
    assert "10000 frames/s were asked for: held within 10% in 0 of" in capsys.readouterr().out
    budgets = [json.loads(line)["budget"] for line in (tmp_path / "rows").read_text().splitlines()]
    assert budgets[0] == pytest.approx(0.1)
    assert budgets == sorted(budgets, reverse=True) and budgets[-1] < budgets[1], "nothing is fast enough for that"


def test_a_rate_needs_a_policy_with_a_budget_and_no_other_budget(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", 3)
    with pytest.raises(UserError, match="no budget to set"):
        list(infer.run(video, policies.TopR(3), "doom", rate=10))
    with pytest.raises(UserError, match="rate or budget"):
        infer.run(video, "doom", budget=0.2, rate=10)
