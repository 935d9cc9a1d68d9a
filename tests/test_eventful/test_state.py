"""Streams that come, go, jump and move: resets, joins, sizes, scene cuts, devices, types, grad modes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from family_zoo import STATEFUL, assert_rows, build, clip, play

import eventful
import policies
from eventful import StreamError, StreamState
from policies.protocol import GateObservation, Policy, Selection

each_mode = pytest.mark.parametrize("mode", STATEFUL)
each_name = pytest.mark.parametrize("name", ["ViT", "DINOv3", "ViTDet, pooled keys"])


class Remembering(Policy):
    """Tokens whose error exceeds its running mean in the stream: a policy with a memory for each stream."""

    def select(self, observation: GateObservation) -> Selection:
        key, mean_B = f"mean{observation.gate}", observation.error_BN.mean(1)
        if key in observation.memory:
            mean_B = 0.7 * observation.memory[key] + 0.3 * mean_B
        observation.memory[key] = mean_B
        return Selection(mask_BN=observation.error_BN > mean_B[:, None])


@each_name
@each_mode
def test_reset_of_one_stream_is_a_flush_for_it_alone(name: str, mode: str) -> None:
    vit, frames = build(name), clip(7, streams=3)
    batch = eventful.wrap(vit, Remembering(), **STATEFUL[mode])
    play(batch, frames[:3])
    batch.reset(streams=[1])
    flushed = play(batch, frames[3:4])[0]
    flush_macs = batch.macs
    with torch.inference_mode():
        torch.testing.assert_close(flushed[1], vit(frames[3])[1], atol=1e-4, rtol=1e-4)
    assert float(flush_macs.ratio[1]) == pytest.approx(1.0) and float(flush_macs.ratio[0]) != pytest.approx(1.0)
    rest = play(batch, frames[4:])

    for stream in range(3):
        single = eventful.wrap(vit, Remembering(), **STATEFUL[mode])
        one = [frame[stream : stream + 1] for frame in frames]
        play(single, one[:3])
        if stream == 1:
            single.reset(streams=[0])
        torch.testing.assert_close(play(single, one[3:4])[0][0], flushed[stream], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(single.macs.total[0], flush_macs.total[stream])
        for ours, theirs in zip(play(single, one[4:]), rest, strict=True):
            torch.testing.assert_close(ours[0], theirs[stream], atol=1e-5, rtol=1e-4)


@each_name
@each_mode
def test_streams_leave_and_join_in_mid_run(name: str, mode: str) -> None:
    vit, frames = build(name), clip(6, streams=3)
    model = eventful.wrap(vit, Remembering(), **STATEFUL[mode])
    whole = eventful.wrap(vit, Remembering(), **STATEFUL[mode])
    expected = play(whole, frames)
    play(model, frames[:2])
    assert model.state is not None
    left = model.state.select([1])
    model.state = model.state.select([2, 0])
    assert_rows(play(model, [frame[[2, 0]] for frame in frames[2:4]]), expected[2:4], [2, 0])
    with torch.inference_mode():
        for frame in frames[2:4]:
            _, left = model.step(frame[1:2], left)
    model.state = StreamState.cat([model.state, left])
    assert_rows(play(model, [frame[[2, 0, 1]] for frame in frames[4:]]), expected[4:], [2, 0, 1])


@each_mode
def test_states_of_different_ages_join(mode: str) -> None:
    vit, frames = build("ViT"), clip(8, streams=2)
    model = eventful.wrap(vit, Oldest(4), **STATEFUL[mode])
    old, young = None, None
    with torch.inference_mode():
        for frame in frames[:5]:
            _, old = model.step(frame[:1], old)
        for frame in frames[3:5]:
            _, young = model.step(frame[1:], young)
        assert old is not None and young is not None
        joined = StreamState.cat([old, young])
        for frame in frames[5:]:
            out, joined = model.step(frame, joined)
            one, old = model.step(frame[:1], old)
            two, young = model.step(frame[1:], young)
            torch.testing.assert_close(out, torch.cat([one, two]), atol=1e-5, rtol=1e-4)


class Oldest(Policy):
    """The r tokens that have waited longest: sensitive to ages."""

    def __init__(self, r: int) -> None:
        self.r = r

    def select(self, observation: GateObservation) -> Selection:
        tie = torch.linspace(0, 0.5, observation.layout.tokens)
        return Selection.top(observation.age_BN.float() + tie, self.r)


def test_a_new_stream_is_a_copy_that_is_reset() -> None:
    vit, frames = build("ViT"), clip(3, streams=2)
    model = eventful.wrap(vit, policies.TopR(3))
    play(model, [frames[0][:1], frames[1][:1]])
    assert model.state is not None
    model.state = model.state.select([0, 0])
    model.reset(streams=[1])
    out = play(model, frames[2:])[0]
    with torch.inference_mode():
        torch.testing.assert_close(out[1], vit(frames[2])[1], atol=1e-4, rtol=0)
        assert (out[0] - vit(frames[2])[0]).abs().max() > 1e-3


class Budgeted(policies.BudgetedPolicy):
    """As many tokens as each stream's budget pays for."""

    def __init__(self, budget: Any) -> None:
        self.budget = budget

    def select(self, observation: GateObservation) -> Selection:
        budget_B = self.budget_per_stream(observation)
        return Selection.top_counts(observation.error_BN, observation.layout.counts(budget_B))


@pytest.mark.parametrize("mode", ["exact", "paper", "frame"])
@pytest.mark.parametrize("name", ["ViT", "SAM image encoder"])
def test_every_stream_has_its_own_budget(name: str, mode: str) -> None:
    vit, frames = build(name), clip(4, streams=3)
    batch = eventful.wrap(vit, Budgeted(torch.tensor([0.1, 0.4, 0.9])), **STATEFUL[mode])
    expected = play(batch, frames)
    ratio = batch.macs.ratio
    assert float(ratio[0]) < float(ratio[1]) < float(ratio[2])
    for stream, budget in enumerate((0.1, 0.4, 0.9)):
        single = eventful.wrap(vit, Budgeted(budget), **STATEFUL[mode])
        outs = play(single, [frame[stream : stream + 1] for frame in frames])
        assert_rows(outs, [out[stream : stream + 1] for out in expected], [0])


@pytest.mark.parametrize("name", ["ViT", "DINOv3", "SAM image encoder"])
def test_budgets_are_met_where_the_plan_says_so(name: str) -> None:
    """Random masks of the planned size cost what the plan says, windows and pooled cells in the mean included."""
    for mode in ("exact", "frame"):
        model = eventful.wrap(build(name), policies.All(), **STATEFUL[mode])
        layout = model.layout(clip(1)[0])
        for budget in (0.3, 0.6):
            count = layout.count(budget)
            model.policy = policies.Random(count / layout.tokens, seed=3)
            model.reset()
            spent = []
            for frame in clip(12, seed=4):
                play(model, [frame])
                spent.append(float(model.macs.ratio[0]))
            assert sum(spent[1:]) / 11 == pytest.approx(layout.share(count), rel=0.1)


def test_a_change_of_size_is_an_error_or_a_flush() -> None:
    vit = build("DINOv3")
    small, large = clip(3, size=(40, 48)), clip(3, size=(48, 56), seed=5)
    model = eventful.wrap(vit, policies.TopR(5))
    play(model, small)
    with pytest.raises(StreamError, match=r"48x56.*were 40x48.*on_resize"):
        play(model, large)
    for kwargs in ({}, {"granularity": "frame"}, {"attention": "paper"}):
        model = eventful.wrap(vit, Remembering(), on_resize="flush", **kwargs)  # type: ignore[arg-type]
        play(model, small)
        first = play(model, large[:1])[0]
        with torch.inference_mode():
            torch.testing.assert_close(first, vit(large[0]), atol=1e-4, rtol=0)
        assert float(model.macs.ratio[0]) == pytest.approx(1.0)
        play(model, large[1:])
        assert float(model.macs.ratio[0]) < 1.0
        play(model, small)
    with pytest.raises(ValueError, match="error, flush"):
        eventful.wrap(vit, policies.All(), on_resize="resize")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["exact", "frame", "paper"])
@pytest.mark.parametrize("name", ["ViT", "SAM image encoder"])
def test_a_scene_cut_flushes_the_stream_that_has_it(name: str, mode: str) -> None:
    vit, frames, other = build(name), clip(6, streams=2), clip(6, streams=2, seed=7)
    # Stream 1 jumps to another scene in frame 3.
    frames = [torch.stack([a[0], b[1] if t >= 3 else a[1]]) for t, (a, b) in enumerate(zip(frames, other, strict=True))]
    model = eventful.wrap(vit, policies.Threshold(1.0), scene_cut=0.9, **STATEFUL[mode])
    ratios, flushed = [], []
    for t, frame in enumerate(frames):
        out = play(model, [frame])[0]
        ratios.append(model.macs.ratio)
        flushed.append(model.state.flushed_B.tolist())
        if t == 3:
            assert model.state.updated()[1].all() and not model.state.updated()[0].all()
            with torch.inference_mode():
                torch.testing.assert_close(out[1], vit(frame)[1], atol=1e-4, rtol=1e-4)
    spent = torch.stack(ratios)
    assert (spent[1:, 0] < 0.9).all(), "stream 0 has no cut"
    assert flushed == [[True, True], *[[False, t == 3] for t in range(1, 6)]]
    # The check costs one more error norm.
    assert float(spent[3, 1]) == pytest.approx(1.0, abs=0.02)
    assert (spent[[1, 2, 4, 5], 1] < 0.9).all()
    with pytest.raises(ValueError, match="scene_cut must be"):
        eventful.wrap(vit, policies.All(), scene_cut=0.0)


def test_a_scene_cut_in_masked_execution_is_the_same() -> None:
    vit, frames = build("ViT"), [clip(1)[0], clip(1, seed=3)[0], clip(1, seed=3)[0]]
    model = eventful.wrap(vit, policies.TopR(2), scene_cut=0.9)
    state, masked = None, None
    for frame in frames:
        with torch.no_grad():
            one, state = model.step(frame, state)
            two, masked = model.step(frame, masked, masked=True)
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(state.macs.total, masked.macs.total)


def test_bad_frames_leave_the_stream_as_it_was() -> None:
    vit, frames = build("ViT"), clip(4)
    model, reference = (eventful.wrap(vit, policies.TopR(4)) for _ in range(2))
    play(model, frames[:2])
    bad = frames[2].clone()
    bad[0, 0, 3, 3] = torch.nan
    for frame, message in ((bad, "NaN"), (frames[2].repeat(2, 1, 1, 1), "2 streams"), (frames[2][0], "shape")):
        with pytest.raises(StreamError, match=message):
            play(model, [frame])
    torch.testing.assert_close(play(model, frames[2:]), play(reference, frames)[2:])
    with pytest.raises(IndexError, match="no stream 3"):
        model.reset(streams=[3])


class Failing(policies.TopR):
    """Gives up in the middle of a frame."""

    def select(self, observation: GateObservation) -> Selection:
        if observation.gate == 4:
            raise RuntimeError("out of tokens")
        return super().select(observation)


def test_a_frame_that_breaks_off_is_followed_by_a_flush() -> None:
    vit, frames = build("ViT"), clip(4)
    model = eventful.wrap(vit, policies.TopR(4))
    play(model, frames[:2])
    model.policy = Failing(4)
    with pytest.raises(RuntimeError, match="out of tokens"):
        play(model, frames[2:3])
    model.policy = policies.TopR(4)
    with torch.inference_mode():
        torch.testing.assert_close(model(frames[3]), vit(frames[3]), atol=1e-4, rtol=0)


def test_plans_follow_the_policy() -> None:
    vit, frame = build("ViT"), clip(1)[0]

    class Costly(policies.All):
        def macs(self, layout: policies.Layout) -> float:
            return 1e6

    model = eventful.wrap(vit, Costly())
    play(model, [frame, frame])
    assert float(model.macs.by_operation["policy"][0]) == 6e6
    model.policy = policies.All()
    play(model, [frame])
    assert float(model.macs.by_operation["policy"][0]) == 0
