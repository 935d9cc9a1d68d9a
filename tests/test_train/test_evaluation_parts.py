"""The parts of an evaluation: runs of known policies, batches, results on disk, contenders, latency."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from squares_task import Squares

import eventful
from eventful.errors import UserError
from policies import All, Nothing, Periodic, Threshold, TopR
from train.calibration import solve_shift
from train.evaluation.bootstrap import resample_clips
from train.evaluation.contenders import digest, drop_blind, drop_twins, parse_contenders
from train.evaluation.latency import measure_latency
from train.evaluation.plots import spread
from train.evaluation.policy_maker import PolicyMaker
from train.evaluation.results_file import Key, Latency, Record, ResultsFile
from train.evaluation.rollout import Footage, batch_clips, evaluate_policy

CPU = torch.device("cpu")


@pytest.fixture
def task() -> Squares:
    return Squares()


def footage(task: Squares, streams: int = 4, **options: Any) -> Footage:
    return Footage(task, task.clips("test"), streams, CPU, torch.float32, **options)


def run(task: Squares, policy: Any, streams: int = 4, granularity: str = "frame", **options: Any) -> Record:
    model = eventful.wrap(task.model, All(), granularity=granularity)
    return evaluate_policy(model, policy, footage(task, streams, **options), Key("x"), resample_clips(4, 10, 0))


def test_a_batch_equals_singles(task: Squares):
    for granularity in ("frame", "gate"):
        for policy in (TopR(9), Threshold(0.7), Periodic(3)):
            single, batch = (run(task, policy, streams, granularity) for streams in (1, 4))
            for name in ("share_U", "share_flush_U", "overall_U", "age_max_U", "rates_G"):
                assert getattr(single, name) == pytest.approx(getattr(batch, name), abs=1e-9), name
            for name in ("distance_U", "worst_U", "metric_R"):
                assert getattr(single, name) == pytest.approx(getattr(batch, name), abs=1e-5), name


def test_ages_rates_and_shares_of_known_policies(task: Squares):
    nothing, everything, periodic = (run(task, policy) for policy in (Nothing(), All(), Periodic(4)))
    assert nothing.age_max_U == [11, 11, 11, 10] and nothing.rates_G == [0.0]
    assert everything.age_max_U == [0] * 4 and everything.rates_G == [1.0]
    assert everything.share_U[0] == pytest.approx(1, abs=0.05)
    # Frames 4 and 8 of 1 to 11, and of 1 to 10.
    assert periodic.rates_G[0] == pytest.approx((3 * 2 + 2) / (3 * 11 + 10))
    assert periodic.age_max_U == [3] * 4
    assert nothing.share_flush_U[0] == pytest.approx((nothing.share_U[0] * 11 + 1) / 12, rel=1e-6)


def test_a_small_cache_changes_nothing(task: Squares):
    assert run(task, TopR(5), cache_bytes=0).distance_U == run(task, TopR(5)).distance_U


def test_what_a_frame_updated_is_read_from_the_state(task: Squares):
    model = eventful.wrap(task.model, TopR(4), granularity="gate")
    frame = task.preprocess(task.clips("test")[0].frames_THWC[:2])
    model(frame)
    model(frame + 0.1 * torch.randn_like(frame))
    rates_BG, age_max_B = model.state.updated().double().mean(2), model.state.ages().flatten(1).amax(1)
    assert rates_BG.shape == (2, 6) and torch.allclose(rates_BG, torch.tensor(4 / 36).double())
    assert age_max_B.tolist() == [1, 1]


def test_groups_have_one_shape_and_all_clips(task: Squares):
    groups = batch_clips(task.clips("test"), streams=2)
    assert sorted(len(group.clips) for group in groups) == [1, 1, 2]
    assert {clip.name for group in groups for clip in group.clips} == {f"test-{k}" for k in range(4)}


def test_results_survive_the_file(tmp_path: Path):
    record = Record(Key("TopR", 0.1, "3"), "r=3", ["a"], [3], [0.1], [0.2], [0.1], [0.0], [0.1], [0.2], [5], [0.1])
    record.metric_R = [0.5, math.nan]
    latency = Latency(Key("TopR", 0.1), 5, (1.0, 2.0, 3.0), (1.0, 1.0, 1.0), (1.0, 2.0, 3.0))
    first = ResultsFile(tmp_path / "results.jsonl", {"a": 1})
    first.add(record)
    first.add(latency)
    again = ResultsFile(tmp_path / "results.jsonl", {"a": 1})
    assert repr(again.records) == repr({record.key: record})
    assert again.latencies == {latency.key: latency}
    (tmp_path / "results.jsonl").write_text("no json\n")
    with pytest.raises(UserError, match="damaged"):
        ResultsFile(tmp_path / "results.jsonl", {"a": 1})


def test_latency_is_measured_on_short_clips(task: Squares):
    model = eventful.wrap(task.model, All(), granularity="frame")
    found = measure_latency(task, model, TopR(3), task.clips("test"), 40, Key("TopR", 0.1))
    assert found.frames == 40 and 0 < found.speedup[0] <= found.speedup[1] <= found.speedup[2]


def test_contenders_are_parsed():
    found = parse_contenders(["TopR", "TopR@gate", "All"], "frame")
    assert [c.id for c in found] == ["TopR", "TopR@gate", "All"]
    assert [c.label for c in found] == ["top-r", "top-r, per gate", "all (dense)"]
    with pytest.raises(UserError, match="did you mean TopR"):
        parse_contenders(["TopK"], "frame")
    with pytest.raises(UserError, match="twice"):
        parse_contenders(["TopR", "TopR@frame"], "frame")
    aged, plain = parse_contenders(["TopR+age@gate", "TopR"], "frame")
    assert (aged.id, aged.label) == ("TopR+age@gate", "top-r, age bound, per gate") and aged.aged and not plain.aged
    with pytest.raises(UserError, match=r"'Learned\+age': a bound on age can be had for"):
        parse_contenders(["Learned+age"], "frame")
    kept, notes = drop_twins(parse_contenders(["TopR", "GlobalTopR+age", "SaliencyTopR"], "frame"))
    assert len(kept) == 3 and not notes
    kept, notes = drop_blind(kept, saliency=False)
    assert [c.id for c in kept] == ["TopR", "GlobalTopR+age"] and "no saliency" in notes[0]
    kept, notes = drop_twins(parse_contenders(["TopR", "GlobalTopR", "GlobalTopR@gate"], "frame"))
    assert [c.id for c in kept] == ["TopR", "GlobalTopR@gate"] and len(notes) == 1


def test_the_search_for_a_threshold_finds_the_budget_or_comes_as_close_as_there_is():
    found = solve_shift(lambda x: math.exp(-2 * x), 0.1)
    assert math.exp(-2 * found) == pytest.approx(0.1, rel=0.02)
    closest = solve_shift(lambda x: 0.02 if x < 0 else 0.01, 0.5)
    assert math.isfinite(closest) and closest < 0


def no_rules(granularity: str) -> Any:
    raise AssertionError("keys need no rules")


def no_oracle(granularity: str, budget: float) -> Any:
    raise AssertionError("keys need no oracle")


def test_keys_have_a_run_for_each_seed():
    maker = PolicyMaker(no_rules, no_oracle, [0.5, 0.1], {})
    random, topr = parse_contenders(["Random", "TopR"], "frame")
    assert [key.budget for key in maker.keys(topr, [0, 1])] == [0.1, 0.5]
    assert [(key.budget, key.seed) for key in maker.keys(random, [0, 1])][:2] == [(0.1, "0"), (0.1, "1")]


def test_digest_follows_the_weights(task: Squares):
    before = digest(task.model)
    assert before == digest(task.model)
    with torch.no_grad():
        task.model.head.bias[0] += 1
    assert digest(task.model) != before


def test_labels_are_moved_apart_in_order():
    placed = spread([10.0, 11.0, 50.0, 49.0], gap=5.0, low=0.0, high=52.0)
    assert placed[1] - placed[0] >= 5 and placed[2] - placed[3] >= 5
    assert all(0 <= place <= 52 for place in placed)
