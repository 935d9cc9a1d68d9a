"""What the consumer cared for in one frame is seen by policies in the next: packed, masked, flushed, joined, cloned."""

from __future__ import annotations

import pytest
import torch
from family_zoo import STATEFUL, clip, play, vit
from torch import Tensor

import eventful
import policies
from eventful import StreamState
from policies import GateObservation, Policy, Selection

PREFIX = 1


def cares(outputs: Tensor) -> Tensor:
    """The best score of each patch token."""
    return outputs[:, PREFIX:].sigmoid().amax(-1)


class Watching(Policy):
    """Every other token; keeps what it saw."""

    def __init__(self) -> None:
        self.seen: list[GateObservation] = []

    def select(self, observation: GateObservation) -> Selection:
        self.seen.append(observation)
        return Selection.top(torch.arange(observation.layout.tokens).expand(observation.streams, -1) % 2 * 1.0, 9)

    @property
    def saliency(self) -> list[Tensor]:
        return [o.saliency_BN for o in self.seen if o.gate == 0 and o.saliency_BN is not None]

    @property
    def before(self) -> list[Tensor]:
        return [o.saliency_before_BN for o in self.seen if o.gate == 0 and o.saliency_before_BN is not None]


def dense_outputs(**kwargs):
    torch.manual_seed(0)
    return vit(global_pool="", **kwargs)


def padded(outputs: Tensor) -> Tensor:
    return torch.cat([torch.ones(len(outputs), PREFIX), cares(outputs)], 1)


@pytest.mark.parametrize("mode", STATEFUL)
def test_the_next_frame_sees_what_came_out_of_the_last(mode: str) -> None:
    watching, frames = Watching(), clip(4, streams=2)
    model = eventful.wrap(dense_outputs(), watching, **STATEFUL[mode], saliency=cares)
    outputs = play(model, frames)
    for t in range(3):
        torch.testing.assert_close(watching.saliency[t], padded(outputs[t]))
        torch.testing.assert_close(watching.before[t], padded(outputs[max(t - 1, 0)]))
    gates = {o.gate: o.saliency_BN for o in watching.seen[-model.layout(frames[0]).gates :]}
    assert all(torch.equal(seen, gates[0]) for seen in gates.values() if seen is not None)


@pytest.mark.parametrize("mode", STATEFUL)
def test_masked_frames_features_and_decisions_look_too(mode: str) -> None:
    packed, masked, featured = Watching(), Watching(), Watching()
    net, frames = dense_outputs(), clip(4, streams=2)
    play(eventful.wrap(net, packed, **STATEFUL[mode], saliency=cares), frames)
    model, state = eventful.wrap(net, masked, **STATEFUL[mode], saliency=cares), None
    for frame in frames:
        outputs, state = model.step(frame, state, masked=True)
    assert outputs.requires_grad and state.saliency_BN is not None and not state.saliency_BN.requires_grad
    other = eventful.wrap(net, featured, **STATEFUL[mode], saliency=cares)
    for frame in frames:
        other.forward_features(frame)
    for ours, masks, features in zip(packed.saliency, masked.saliency, featured.saliency, strict=True):
        torch.testing.assert_close(masks, ours, atol=1e-4, rtol=1e-4)
        assert torch.equal(features, ours)


def test_a_flush_is_no_change_and_streams_keep_their_own() -> None:
    watching, frames = Watching(), clip(6, streams=2)
    model = eventful.wrap(dense_outputs(), watching, "frame", saliency=cares)
    outputs = play(model, frames[:3])
    model.reset(streams=[1])
    outputs += play(model, frames[3:5])
    last, before = watching.saliency[-1], watching.before[-1]
    torch.testing.assert_close(last, padded(outputs[3]))
    torch.testing.assert_close(before[0], padded(outputs[2])[0])
    assert torch.equal(before[1], last[1])


def test_states_are_cloned_selected_joined_and_moved_with_it() -> None:
    frames = clip(4, streams=2)
    model = eventful.wrap(dense_outputs(), Watching(), "frame", saliency=cares)
    play(model, frames[:3])
    state = model.state
    assert state is not None and state.saliency_BN is not None and state.saliency_before_BN is not None
    copy = state.clone()
    joined = StreamState.cat([copy.select([1]), copy.select([0])])
    assert joined.saliency_BN is not None and torch.equal(joined.saliency_BN, state.saliency_BN[[1, 0]])
    half = state.to(dtype=torch.bfloat16)
    assert half.saliency_BN is not None and half.saliency_BN.dtype == torch.float32
    kept = copy.saliency_BN
    play(model, frames[3:])
    assert kept is not None and not torch.equal(kept, model.state.saliency_BN)


def test_one_value_for_the_frame_is_everybodys_and_without_a_consumer_nobody_knows() -> None:
    watching, frames = Watching(), clip(2, streams=2)
    model = eventful.wrap(vit(), watching, "frame", saliency=lambda logits: logits.softmax(-1).amax(-1, keepdim=True))
    value_B1 = play(model, frames)[0].softmax(-1).amax(-1, keepdim=True)
    torch.testing.assert_close(watching.saliency[0][:, PREFIX:], value_B1.expand(-1, 30))
    plain = Watching()
    play(eventful.wrap(vit(), plain, "frame"), frames)
    assert plain.seen[0].saliency_BN is None and plain.seen[0].saliency_before_BN is None


def test_values_for_other_tokens_are_refused() -> None:
    model = eventful.wrap(vit(), policies.All(), saliency=lambda logits: logits)
    with pytest.raises(ValueError, match=r"saliency must be \(2, 30\).*got \(2, 5\)"):
        model(clip(1, streams=2)[0])


def test_the_head_runs_once_a_frame() -> None:
    net, calls = dense_outputs(), []
    net.head.register_forward_hook(lambda *_: calls.append(1))
    model = eventful.wrap(net, policies.All(), saliency=cares)
    model.layout(clip(1)[0])
    calls.clear()
    play(model, clip(3))
    assert len(calls) == 3
