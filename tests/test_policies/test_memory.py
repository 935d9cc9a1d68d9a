"""What policies remember of a stream depends on that stream alone, whatever becomes of its neighbours."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor

import eventful
import policies
from eventful import StreamState
from eventful.errors import SelectionError


def remembering(kind: str) -> policies.Policy:
    if kind == "GlobalTopR":
        return policies.GlobalTopR(3)
    policy = policies.LearnedPolicy(6, 192, "gate", budgets=[0.1, 0.5], budget=0.2, feedback=0.5)
    policy.table.log_threshold_KG.fill_(1.0)
    return policy


def wrapped(kind: str, **options: Any) -> eventful.EventfulModel:
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2)
    return eventful.wrap(vit, remembering(kind), "gate", **options)


def film(seed: int, frames: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    still = torch.randn(1, 3, 64, 64, generator=generator)
    return [still + 0.4 * torch.randn(1, 3, 64, 64, generator=generator) for _ in range(frames)]


def shares(model: eventful.EventfulModel, frames: list[Tensor], stream: int) -> list[float]:
    found = []
    with torch.inference_mode():
        for frame in frames:
            model(frame)
            found.append(float(model.macs.share[stream]))
    return found


each_kind = pytest.mark.parametrize("kind", ["GlobalTopR", "feedback"])


@each_kind
def test_a_stream_that_begins_anew_beside_others_spends_what_it_would_alone(kind: str) -> None:
    first, second = film(1), film(2, 9)
    alone = shares(wrapped(kind), first, 0)
    assert len(set(alone[1:])) > 1, "the test needs a policy that is moved by what it spends"
    model = wrapped(kind)
    shares(model, [torch.cat([frame, frame]) for frame in second[:3]], 0)
    model.reset(streams=[1])
    beside = [torch.cat(pair) for pair in zip(second[3:], first, strict=True)]
    assert shares(model, beside, 1) == pytest.approx(alone, abs=1e-6)


@each_kind
def test_a_stream_that_joins_others_after_its_flush_spends_what_it_would_alone(kind: str) -> None:
    first, second = film(1), film(2, 9)
    alone = shares(wrapped(kind), first, 0)
    model, new = wrapped(kind), wrapped(kind)
    shares(model, second[:3], 0)
    shares(new, first[:1], 0)
    assert model.state is not None and new.state is not None
    model.state = StreamState.cat([model.state, new.state])
    beside = [torch.cat(pair) for pair in zip(second[4:], first[1:], strict=True)]
    assert shares(model, beside, 1) == pytest.approx(alone[1:], abs=1e-6)


def test_a_flush_is_no_spending_of_the_policy() -> None:
    model = wrapped("feedback", scene_cut=0.9)
    shares(model, film(1, 3), 0)
    assert model.state is not None
    before = float(model.state.memory["threshold_offset"])
    cut = film(7, 2)
    assert shares(model, cut[:1], 0)[0] > 0.9, "the cut is a flush"
    shares(model, cut[1:], 0)
    assert float(model.state.memory["threshold_offset"]) == before


def test_what_is_remembered_must_be_there_for_each_stream() -> None:
    class Odd(policies.TopR):
        def select(self, observation: policies.GateObservation) -> policies.Selection:
            observation.memory["mine"] = torch.zeros(5)
            return super().select(observation)

    model = eventful.wrap(timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1), Odd(3))
    frames = film(1, 2)
    model(frames[0])
    with pytest.raises(SelectionError, match=r"its 1 streams as first dimension; memory\['mine'\] is \(5,\)"):
        model(frames[1])


@pytest.mark.parametrize("kind", [policies.TopR, policies.SaliencyTopR, policies.GlobalTopR, policies.Periodic])
@pytest.mark.parametrize("value", [2.5, float("nan"), -1])
def test_counts_are_whole_numbers(kind: Any, value: float) -> None:
    with pytest.raises(ValueError, match=r"(r|period) must be (a whole number|at least)"):
        kind(value)


@pytest.mark.parametrize("wrong", [{"gain": -1.0}, {"gain": float("nan")}, {"momentum": 1.0}, {"momentum": -0.1}])
def test_settings_of_the_global_rule_have_ranges(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="gain must be a number from 0, momentum in"):
        policies.GlobalTopR(3, **wrong)
