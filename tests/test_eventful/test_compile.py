"""`torch.compile` of the token-wise layers: the same numbers, and no compilation at a new number of tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from family_zoo import build, clip
from torch._dynamo.utils import counters

import eventful
import policies


class Growing(policies.Policy):
    """One token at the first gate after a flush, two at the next, and so on round."""

    def __init__(self) -> None:
        self.asked = 0

    def select(self, observation: policies.GateObservation) -> policies.Selection:
        self.asked += 1
        r = self.asked % (observation.layout.tokens - 1) + 1
        return policies.Selection.top(observation.error_BN, r)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Any:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


MODES: list[dict[str, Any]] = [{}, {"granularity": "frame"}]


def graphs_and_outputs(name: str, backend: str, mode: dict[str, Any]) -> tuple[list[int], float]:
    """Number of compiled graphs after each frame, and the worst deviation from eager execution."""
    eager = eventful.wrap(build(name), Growing(), **mode)
    compiled = eventful.wrap(build(name), Growing(), compile=backend, **mode)
    graphs, worst = [], 0.0
    with torch.inference_mode():
        for frame in clip(14):
            worst = max(worst, float((compiled(frame) - eager(frame)).abs().max()))
            graphs.append(counters["stats"]["unique_graphs"])
    return graphs, worst


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("name", ["EVA-02", "ViTDet, pooled keys"])
def test_one_graph_serves_every_number_of_tokens_and_every_block(name: str, mode: dict[str, Any]) -> None:
    graphs, worst = graphs_and_outputs(name, "eager", mode)
    assert worst < 1e-5
    assert graphs[0] == 0, "a flush is not compiled"
    # Norms, qkv, projection and MLP have one graph each; pooled attention is a class of its own.
    assert 3 <= graphs[1] <= 7
    assert graphs[-1] == graphs[1], f"compiled anew: {graphs}"


@pytest.mark.slow
def test_inductor_gives_the_same_numbers_without_compiling_anew() -> None:
    graphs, worst = graphs_and_outputs("ViT", "inductor", {})
    assert worst < 1e-4
    assert graphs[-1] == graphs[1], f"compiled anew: {graphs}"


def test_masked_execution_is_not_compiled() -> None:
    model, frames = eventful.wrap(build("ViT"), Growing(), compile="eager"), clip(3)
    state = None
    for frame in frames:
        out, state = model.step(frame, state, masked=True)
    out.sum().backward()
    assert counters["stats"]["unique_graphs"] == 0


@pytest.mark.parametrize("grad_mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    ("policy", "mode"), [(policies.TopR(5), MODES[1]), (policies.Threshold(1.0), MODES[0])], ids=["frame", "gate"]
)
def test_the_whole_model_may_be_compiled_from_outside(policy: policies.Policy, mode: dict[str, Any], grad_mode) -> None:
    eager = eventful.wrap(build("ViT"), policy, **mode)
    compiled = torch.compile(eventful.wrap(build("ViT"), policy, **mode), backend="eager")
    with grad_mode():
        for frame in clip(3):
            torch.testing.assert_close(compiled(frame), eager(frame))
            assert torch.equal(compiled.macs.total, eager.macs.total)


def test_layers_are_compiled_inside_a_model_that_is_compiled_as_a_whole() -> None:
    model = torch.compile(eventful.wrap(build("ViT"), policies.TopR(5), compile="eager"), backend="eager")
    with torch.inference_mode():
        model(clip(2)[0])
        flush = counters["stats"]["unique_graphs"]
        model(clip(2)[1])
    assert counters["stats"]["unique_graphs"] >= flush + 3


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(ValueError, match=r"one of .*inductor.*got 'indctor'"):
        eventful.wrap(build("ViT"), policies.All(), compile="indctor")
