"""A frame that breaks off in the middle leaves a state whose next frame is a flush, however it was stepped."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from family_zoo import STATEFUL, build, clip
from torch import Tensor, nn

import eventful
import policies
from envs.distill import Distillation
from eventful import StreamError
from eventful.infer import prepare
from eventful.model import EventfulModel
from eventful.state import StreamState
from policies.protocol import GateObservation, Policy, Selection


class UnpluggedError(Exception):
    pass


class Fuse(Policy):
    """Top-r that raises at one of its decisions."""

    def __init__(self, at: int, error: type[BaseException] = UnpluggedError) -> None:
        self.rule, self.at, self.error, self.asked = policies.TopR(3), at, error, 0

    def select(self, observation: GateObservation) -> Selection:
        self.asked += 1
        if self.asked == self.at:
            raise self.error
        return self.rule.select(observation)


def forward(model: EventfulModel, frame: Tensor, state: StreamState | None) -> tuple[Any, StreamState]:
    model.state = state
    outputs = model(frame)
    assert model.state is not None
    return outputs, model.state


def features(model: EventfulModel, frame: Tensor, state: StreamState | None) -> tuple[Any, StreamState]:
    model.state = state
    outputs = model.forward_head(model.forward_features(frame))
    assert model.state is not None
    return outputs, model.state


def by_hand(model: EventfulModel, frame: Tensor, state: StreamState | None) -> tuple[Any, StreamState]:
    frame_by_frame = model.decisions(frame, state)
    try:
        observation = next(frame_by_frame)
        while True:
            observation = frame_by_frame.send(model.policy.select(observation))
    except StopIteration as stop:
        return model.forward_head(stop.value[0]), stop.value[1]
    finally:
        frame_by_frame.close()


WAYS: dict[str, Callable[[EventfulModel, Tensor, StreamState | None], tuple[Any, StreamState]]] = {
    "forward": forward,
    "forward_features": features,
    "step": lambda model, frame, state: model.step(frame, state),
    "decisions": by_hand,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", STATEFUL)
@pytest.mark.parametrize("error", [UnpluggedError, KeyboardInterrupt])
def test_a_policy_that_raises(mode: str, way: str, error: type[BaseException]) -> None:
    step, frames = WAYS[way], clip(3, streams=2)
    frame_wise = STATEFUL[mode].get("granularity") == "frame"
    model = eventful.wrap(build("ViT"), Fuse(1 if frame_wise else 3, error), **STATEFUL[mode])
    _, state = step(model, frames[0], None)
    with torch.inference_mode(), pytest.raises(error):
        step(model, frames[1], state)
    with torch.inference_mode():
        outputs, state = step(model, frames[2], state)
        torch.testing.assert_close(outputs, model.vit(frames[2]), atol=1e-4, rtol=1e-4)
    assert state.flushed_B is not None and bool(state.flushed_B.all())
    assert state.frame == 2, "the broken frame is not counted"


@pytest.mark.parametrize("way", WAYS)
def test_a_layer_that_raises(way: str) -> None:
    step, frames = WAYS[way], clip(3, streams=1)
    model = eventful.wrap(build("ViT"), policies.TopR(3))
    with torch.inference_mode():
        _, state = step(model, frames[0], None)
        layer = model.vit.blocks[1].mlp.fc2
        working, layer.weight = layer.weight, nn.Parameter(torch.empty(1, 1))
        with pytest.raises(RuntimeError):
            step(model, frames[1], state)
        layer.weight = working
        outputs, _ = step(model, frames[2], state)
        torch.testing.assert_close(outputs, model.vit(frames[2]), atol=1e-4, rtol=1e-4)


def test_a_consumer_that_raises_when_all_is_computed() -> None:
    frames, working = clip(4, streams=1), [True, False, True]

    def saliency(outputs: Any) -> Tensor:
        if not working.pop(0):
            raise UnpluggedError
        return torch.ones(1, 1)

    model = eventful.wrap(build("ViT"), policies.TopR(3), saliency=saliency)
    with torch.inference_mode():
        _, state = model.step(frames[0], None)
        with pytest.raises(UnpluggedError):
            model.step(frames[1], state)
        outputs, _ = model.step(frames[2], state)
        torch.testing.assert_close(outputs, model.vit(frames[2]), atol=1e-4, rtol=1e-4)


def test_a_runner_goes_on_with_a_flush() -> None:
    """On a still picture, where half of a frame would be off for ever."""
    torch.manual_seed(0)
    task = Distillation(timm.create_model("test_vit", img_size=(64, 64), num_classes=0))
    runner = prepare(Fuse(2), task, device="cpu")
    first, still = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    runner.step(first)
    with pytest.raises(UnpluggedError):
        runner.step(still)
    after = [runner.step(still) for _ in range(3)]
    dense = runner.model.vit(task.preprocess(torch.from_numpy(still)[None]))
    assert [result.flush for result in after] == [True, False, False]
    for result in after:
        torch.testing.assert_close(result.outputs, dense, atol=1e-4, rtol=1e-4)


def test_what_is_not_edited_goes_on() -> None:
    frames = clip(2, streams=1)
    model = eventful.wrap(build("ViT"), Fuse(1))
    _, state = model.step(frames[0], None)
    with pytest.raises(UnpluggedError):
        model.step(frames[1], state, masked=True)
    with pytest.raises(StreamError):
        model.step(frames[1] * float("nan"), state)
    assert not bool(state.flush_B.any())


def test_two_threads_on_one_hidden_state() -> None:
    frames = clip(2, streams=1)
    inside, go_on = threading.Event(), threading.Event()

    class Slow(policies.TopR):
        def select(self, observation: GateObservation) -> Selection:
            inside.set()
            assert go_on.wait(30)
            return super().select(observation)

    model = eventful.wrap(build("ViT"), Slow(3), granularity="frame")
    model(frames[0])
    other = threading.Thread(target=model, args=(frames[1],))
    other.start()
    assert inside.wait(30)
    with pytest.raises(StreamError, match="another thread"):
        model(frames[1])
    twin = copy.deepcopy(model)
    twin.policy = policies.TopR(3)
    twin.reset()
    twin(frames[0])
    go_on.set()
    other.join()
    assert model.state is not None and model.state.frame == 2
    model(frames[1])
