"""Class tokens that are chosen like any other token (`prefix="ordinary"`)."""

from __future__ import annotations

import dataclasses

import pytest
import timm
import torch
from seen import observation

import eventful
import policies
from envs.observation import selection
from policies.age_bound import with_overdue


def wrapped(policy: policies.Policy, prefix: str, **options: object) -> eventful.EventfulModel:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=5, depth=2).eval()
    return eventful.wrap(vit, policy, prefix=prefix, **options)  # type: ignore[arg-type]


@torch.no_grad()
def test_an_ordinary_class_token_may_be_left_out() -> None:
    frames = torch.randn(2, 2, 3, 64, 64)
    first_gate = {}
    for prefix in ("pinned", "ordinary"):
        model = wrapped(policies.TopR(4), prefix)
        for frame in frames:
            model(frame)
        updated_BGN = model.state.updated()
        assert updated_BGN.sum(-1).unique().tolist() == [4]
        first_gate[prefix] = updated_BGN[:, 0, 0].tolist()
        assert model.layout(frames[0]).pinned == (1 if prefix == "pinned" else 0)
    # What enters the first block as class token never changes.
    assert first_gate == {"pinned": [True, True], "ordinary": [False, False]}


@torch.no_grad()
def test_an_ordinary_class_token_costs_nothing_where_it_is_left_out() -> None:
    frame, other = torch.randn(2, 1, 3, 64, 64)
    for prefix, share in (("pinned", True), ("ordinary", False)):
        model = wrapped(policies.Threshold(0.0), prefix)
        model(frame)
        model(other)
        assert model.state.updated()[0, 0].tolist() == [share] + [True] * 16


@pytest.mark.parametrize("ordinary", [False, True])
def test_every_kind_of_decision_knows_whether_the_prefix_is_ordinary(ordinary: bool) -> None:
    seen = observation(tokens=13, gates=3, granularity="gate")
    seen.layout = dataclasses.replace(seen.layout, ordinary_prefix=ordinary)
    seen.input_BND = seen.input_BND.clone()
    seen.input_BND[:, 0] = seen.reference_BND[:, 0]
    mask_BN = torch.zeros(2, 13, dtype=torch.bool)
    mask_BN[:, 5] = True
    chosen = {
        "mask": policies.Selection.where(mask_BN, seen),
        "action": selection(mask_BN, seen.layout),
        "age": with_overdue(policies.Selection(mask_BN=mask_BN), seen, 99),
        "top": policies.TopR(3).select(seen),
        "fraction": policies.TopFraction(0.2).select(seen),
    }
    assert {name: bool(s.as_mask(13)[:, 0].any()) for name, s in chosen.items()} == dict.fromkeys(chosen, not ordinary)


def test_one_decision_per_frame_needs_the_prefix_pinned() -> None:
    with pytest.raises(ValueError, match='needs granularity="gate"'):
        wrapped(policies.TopR(4), "ordinary", granularity="frame")
    with pytest.raises(ValueError, match="prefix must be one of pinned, ordinary, got 'free'"):
        wrapped(policies.TopR(4), "free")
