"""The same numbers by every road: packed and masked, exact and recomputed, batched and single, for all families."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from family_zoo import ZOO, build, clip
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import eventful
import policies
from policies.protocol import GateObservation, Policy, Selection

MODES: dict[str, dict[str, Any]] = {
    "gate, exact": {},
    "gate, exact, before norm": {"gate_position": "before_norm"},
    "gate, recompute": {"attention": "recompute"},
    "gate, paper": {"attention": "paper"},
    "gate, exact, previous": {"reference": "previous"},
    "frame": {"granularity": "frame"},
    "frame, motion": {"granularity": "frame", "motion_compensation": True},
}

SOME = ("ViT", "EVA-02", "SAM image encoder", "ViTDet, pooled keys")
PAIRS = [(name, mode) for name in ZOO for mode in MODES if mode in ("gate, exact", "frame") or name in SOME]
"""Every family in the two main modes, and some families in all modes."""

each_family = pytest.mark.parametrize(("name", "mode"), PAIRS, ids=[", ".join(pair) for pair in PAIRS])


class Ragged(Policy):
    """Random masks whose size differs from stream to stream and gate to gate: none, few, many or all tokens.

    They depend on the stream's own number, the frame and the gate alone, so that a stream gets the same masks in a
    batch and by itself.
    """

    def __init__(self, streams: list[int], seed: int = 0, shares: tuple[float, ...] = (0.0, 0.1, 0.4, 1.0)) -> None:
        self.streams, self.seed, self.shares = streams, seed, shares

    def select(self, observation: GateObservation) -> Selection:
        frame = observation.memory.get("frame", torch.zeros(len(self.streams), dtype=torch.long))
        masks = []
        for stream, number in zip(self.streams, frame.tolist(), strict=True):
            seed = hash((self.seed, stream, number, observation.gate)) % 2**31
            generator = torch.Generator().manual_seed(seed)
            share = self.shares[int(torch.randint(len(self.shares), (), generator=generator))]
            masks.append(torch.rand(observation.layout.tokens, generator=generator) < share)
        if observation.gate == observation.layout.gates - 1:
            observation.memory["frame"] = frame + 1
        return Selection(mask_BN=torch.stack(masks))


def run(model: eventful.EventfulModel, frames: list[Tensor], masked: bool = False) -> tuple[list[Tensor], list[Tensor]]:
    """Features of every frame, and MAC ratios."""
    state, outs, ratios = None, [], []
    with torch.inference_mode():
        for frame in frames:
            out, state = model.step_features(frame, state, masked)
            outs.append(out.clone())
            assert state.macs is not None
            ratios.append(state.macs.ratio)
    return outs, ratios


def assert_same(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-4) -> None:
    assert len(ours) == len(theirs)
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        error = (one - other).abs().max() / other.abs().max().clamp(min=1)
        assert error < tolerance, f"frame {number}: {error:.1e}"


@each_family
def test_selecting_everything_gives_what_the_model_returns(name: str, mode: str) -> None:
    vit, frames = build(name), clip(3, streams=2)
    model = eventful.wrap(vit, policies.All(), **MODES[mode])
    with torch.inference_mode():
        for frame in frames:
            torch.testing.assert_close(model(frame), vit(frame), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(model.forward_features(frame), vit.forward_features(frame), atol=1e-4, rtol=1e-4)


@each_family
def test_masked_is_packed_over_30_frames(name: str, mode: str) -> None:
    model, frames = eventful.wrap(build(name), Ragged([0, 1]), **MODES[mode]), clip(30, streams=2)
    packed, packed_macs = run(model, frames)
    masked, masked_macs = run(model, frames, masked=True)
    assert_same(packed, masked)
    for one, other in zip(packed_macs, masked_macs, strict=True):
        if mode in ("gate, recompute", "gate, paper", "frame"):
            torch.testing.assert_close(one, other)
        else:
            # Packed execution also computes rows afresh that lost most of their mass.
            assert (one >= other - 1e-9).all()


@each_family
def test_a_batch_is_its_streams_run_singly(name: str, mode: str) -> None:
    vit, frames = build(name), clip(8, streams=3)
    batch, ratios = run(eventful.wrap(vit, Ragged([0, 1, 2]), **MODES[mode]), frames)
    for stream in range(3):
        single = eventful.wrap(vit, Ragged([stream]), **MODES[mode])
        outs, single_ratios = run(single, [frame[stream : stream + 1] for frame in frames])
        assert_same([out[stream : stream + 1] for out in batch], outs, 1e-5)
        for one, other in zip(ratios, single_ratios, strict=True):
            torch.testing.assert_close(one[stream : stream + 1], other)


@pytest.mark.parametrize("name", ZOO)
def test_exact_is_recompute_over_200_frames(name: str) -> None:
    """Recomputed attention is dense on the buffers: windows, rotary and relative positions, pooled keys included."""
    vit, frames = build(name), clip(200)
    policy = Ragged([0], shares=(0.0, 0.05, 0.15))
    exact, exact_macs = run(eventful.wrap(vit, policy), frames)
    dense, dense_macs = run(eventful.wrap(vit, policy, attention="recompute"), frames)
    assert_same(exact, dense)
    assert all((one <= other + 1e-9).all() for one, other in zip(exact_macs, dense_macs, strict=True))


@each_family
def test_a_standing_picture_costs_its_gates_and_changes_nothing(name: str, mode: str) -> None:
    model, frame = eventful.wrap(build(name), policies.Threshold(1e-3), **MODES[mode]), clip(1, streams=2)[0]
    with torch.inference_mode():
        first = model(frame)
        for _ in range(3):
            assert torch.equal(model(frame), first)
    spent = {operation for operation, macs in model.macs.by_operation.items() if bool((macs > 0).any())}
    always = {"gates", "policy", "embed", "head"}
    if mode == "gate, recompute" or (mode == "gate, paper" and name in WINDOWED):
        always |= {"qk", "av", "bias"}
    if mode == "frame, motion":
        always |= {"motion"}
    assert spent <= always, f"spent {spent - always}"


WINDOWED = {"SAM image encoder", "SAM layout with RoPE", "ViTDet", "ViTDet, pooled keys"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["ViT", "DINOv3", "ViTDet, pooled keys"])
def test_a_clone_runs_on_by_itself(name: str, mode: str) -> None:
    model, frames = eventful.wrap(build(name), policies.TopFraction(0.2), **MODES[mode]), clip(6, streams=2)
    other = clip(6, streams=2, seed=9)
    with torch.inference_mode():
        state = None
        for frame in frames[:3]:
            _, state = model.step(frame, state)
        assert state is not None
        branch = state.clone()
        kept = state.clone()
        for frame in other[3:]:
            _, branch = model.step(frame, branch)
        for one, two in zip(tensors(state), tensors(kept), strict=True):
            assert torch.equal(one, two)
        a, _ = model.step(frames[3], state)
        b, _ = model.step(frames[3], kept)
    assert torch.equal(a, b)


def tensors(state: eventful.StreamState) -> list[Tensor]:
    found: list[Tensor] = []
    state.map(lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return found


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["ViT", "DINOv2 with registers", "DINOv3", "SAM image encoder", "ViTDet, pooled keys"]),
    mode=st.sampled_from(list(MODES)),
    streams=st.integers(1, 3),
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    choices=st.lists(st.sampled_from(["none", "one", "some", "all"]), min_size=3, max_size=3),
    seed=st.integers(0, 1000),
)
def test_packed_is_masked_for_any_shape_and_mask(
    name: str, mode: str, streams: int, rows: int, columns: int, choices: list[str], seed: int
) -> None:
    vit = build(name)
    size = (40, 48) if name in ("ViT", "SAM image encoder") else (8 * rows, 8 * columns)
    policy = Chosen(itertools.cycle(choices), seed)
    frames = clip(3, streams, seed, (40, 48))
    frames = [frame[..., : size[0], : size[1]] for frame in frames]
    packed, _ = run(eventful.wrap(vit, policy, **MODES[mode]), frames)
    policy = Chosen(itertools.cycle(choices), seed)
    masked, _ = run(eventful.wrap(vit, policy, **MODES[mode]), frames, masked=True)
    assert_same(packed, masked)


class Chosen(Policy):
    """Streams take turns in selecting none, one, some or all tokens."""

    def __init__(self, choices: Any, seed: int) -> None:
        self.choices, self.generator = choices, torch.Generator().manual_seed(seed)

    def select(self, observation: GateObservation) -> Selection:
        masks = []
        for _ in range(observation.streams):
            score = torch.rand(observation.layout.tokens, generator=self.generator)
            count = {"none": 0, "one": 1, "some": (len(score) + 1) // 2, "all": len(score)}[next(self.choices)]
            masks.append(score.argsort().argsort() < count)
        return Selection(mask_BN=torch.stack(masks))
