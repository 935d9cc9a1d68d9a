"""What gates share of the attention that tokens receive is what each would compute by itself."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from family_zoo import build, clip
from torch import nn

import eventful
import policies
from eventful import StreamState
from eventful.graphs import GraphedStream
from policies.features import attention_received
from policies.protocol import GateObservation, Policy, Selection

each_way = pytest.mark.parametrize("attention", ["exact", "paper", "recompute"])


class Watching(Policy):
    """The tokens that receive most attention; sees to it that what is shared is right, and notes where it is."""

    def __init__(self, r: int) -> None:
        self.r = r
        self.known: list[str] = []

    def select(self, observation: GateObservation) -> Selection:
        if observation.shared:
            self.known.append(observation.kind)
        received_BN = attention_received(observation)
        alone_BN = attention_received(dataclasses.replace(observation, shared={}))
        torch.testing.assert_close(received_BN, alone_BN, rtol=0, atol=1e-6)
        score_BN = received_BN + torch.linspace(0, 0.5, observation.layout.tokens) * observation.age_BN
        return Selection.top(score_BN, self.r) if self.r else Selection.none(observation)


@each_way
@pytest.mark.parametrize("name", ["ViT", "DINOv3", "ViTDet, pooled keys"])
def test_from_frame_to_frame(name: str, attention: str) -> None:
    watching, frames = Watching(5), clip(5, streams=2)
    model = eventful.wrap(build(name), watching, attention=attention)
    with torch.inference_mode():
        for frame in frames:
            model(frame)
            watching.known.clear()
        watching.r = 0
        model(frames[0])
    # Keys of the preceding frame at the gate qkv; where it selects nothing, all gates of the block go on with these.
    assert watching.known and set(watching.known) == {"qkv", "proj", "mlp"}


@each_way
def test_when_streams_join_leave_and_begin_again(attention: str) -> None:
    model = eventful.wrap(build("ViT"), Watching(5), attention=attention)
    frames = clip(8, streams=2)
    with torch.inference_mode():
        old, young = None, None
        for frame in frames[:3]:
            _, old = model.step(frame[:1], old)
        _, young = model.step(frames[2][1:], young)
        state = StreamState.cat([old, young])
        for frame in frames[3:5]:
            _, state = model.step(frame, state)
        _, state = model.step(frames[5], StreamState.cat([state.select([1]), state.select([0]).clone()]))
        model.state = state
        model.reset(streams=[1])
        model(frames[6])
    # Out of inference mode, and into another type and back.
    assert model.state is not None
    with torch.no_grad():
        _, state = model.step(frames[7], model.state)
        shared = state.to(dtype=torch.bfloat16).blocks[0].shared
        assert shared and all(value.dtype == torch.float32 for value in shared.values())
        model.step(frames[0], state, masked=True)


@pytest.mark.parametrize("attention", ["paper", "recompute"])
def test_a_stream_of_fixed_work(attention: str) -> None:
    torch.manual_seed(3)
    vit = build("ViT")
    policy = policies.LearnedPolicy(gates=3 * len(vit.blocks), dim=32, granularity="gate", select="top", budget=0.4)
    for weight in policy.parameters():
        nn.init.normal_(weight, std=0.2)
    model, frames = eventful.wrap(vit, policy, attention=attention), clip(6)
    stream = GraphedStream(model, frames[0])
    found = [stream(frame) for frame in frames]
    with torch.inference_mode():
        torch.testing.assert_close(found, [model(frame) for frame in frames], atol=1e-4, rtol=1e-4)
