"""The ledger against torch's own counter, on the operations that both see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import eventful
import policies
from eventful.families.vitdet import vitdet
from eventful.macs.ledger import MacLedger, linear_macs
from policies.protocol import GateObservation, Selection

SEEN = ("embed", "token_wise", "qk", "av", "head")
"""Products of matrices: what the counter sees."""

MODES: list[dict[str, Any]] = [
    {"attention": "exact"},
    {"attention": "paper"},
    {"attention": "recompute"},
    {"granularity": "frame"},
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def vit() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=(96, 128), depth=2, num_classes=5).eval()


def ragged(observation: GateObservation) -> Selection:
    """3 tokens of the first stream, 9 of the second."""
    mask_BN = torch.zeros(observation.streams, observation.layout.tokens, dtype=torch.bool)
    for b, count in enumerate((3, 9)):
        mask_BN[b, torch.randperm(observation.layout.tokens)[:count]] = True
    return Selection(mask_BN=mask_BN)


def counted(model: eventful.EventfulModel, decide: Any, size: tuple[int, int]) -> tuple[float, dict[str, Tensor]]:
    """MACs of the frame after a flush by torch's counter, all streams together, and by the ledger."""
    frame = torch.randn(2, 3, *size)
    with torch.no_grad():
        _, state = eventful.drive(model.decisions(frame, None), decide)
        counter = FlopCounterMode(display=False)
        with counter:
            features, state = eventful.drive(model.decisions(frame + torch.randn_like(frame), state), decide)
            model.backbone.head(features)
    return counter.get_total_flops() / 2, state.macs.by_operation


@pytest.mark.parametrize("options", MODES)
@pytest.mark.parametrize("decide", [policies.TopR(7).select, ragged, policies.Nothing().select])
def test_products_are_what_torch_counts(options: dict[str, Any], decide: Any) -> None:
    model = eventful.wrap(vit(), policies.All(), **options)
    total, by_operation = counted(model, decide, (96, 128))
    assert sum(float(by_operation[name].sum()) for name in SEEN if name in by_operation) == total


@pytest.mark.parametrize("options", MODES)
def test_products_of_windows_and_relative_positions_are_what_torch_counts(options: dict[str, Any]) -> None:
    model = eventful.wrap(
        vitdet(96, embed_dim=24, depth=2, heads=2, window=4, global_blocks=[1]), policies.TopR(5), **options
    )
    total, by_operation = counted(model, model.policy.select, (96, 96))
    seen = sum(float(by_operation[name].sum()) for name in (*SEEN, "bias") if name in by_operation)
    # The biases of relative positions are computed against more distances than the keys need, and windows of other
    # streams may be padded: torch sees a little more.
    assert seen == pytest.approx(total, rel=0.1)


def test_a_flush_costs_the_dense_model() -> None:
    model, frame = eventful.wrap(vit(), policies.TopR(3)), torch.randn(2, 3, 96, 128)
    with torch.inference_mode():
        model(frame)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        vit()(frame[:1])
    assert model.macs.ratio.tolist() == [1.0, 1.0]
    fixed = sum(float(model.macs.by_operation[name][0]) for name in ("embed", "head"))
    assert model.macs.dense + fixed == counter.get_total_flops() / 2


def test_streams_are_counted_one_by_one_as_if_they_were_alone() -> None:
    vit_, frames = vit(), torch.randn(3, 2, 3, 96, 128)
    both = eventful.wrap(vit_, policies.Threshold(9.0))
    alone = [eventful.wrap(vit_, policies.Threshold(9.0)) for _ in range(2)]
    with torch.inference_mode():
        for frame in frames:
            both(frame)
            for b, model in enumerate(alone):
                model(frame[b : b + 1])
    for name, amount_B in both.macs.by_operation.items():
        assert amount_B.tolist() == [float(model.macs.by_operation[name][0]) for model in alone], name


def test_shares_of_the_layout_are_what_frames_cost() -> None:
    for options in MODES:
        model, frame = eventful.wrap(vit(), policies.TopR(7), **options), torch.randn(1, 3, 96, 128)
        with torch.inference_mode():
            model(frame)
            model(frame + 0.1 * torch.randn_like(frame))
        assert float(model.macs.ratio[0]) == pytest.approx(model.layout(frame).share(7), rel=1e-9), options


def test_amounts_are_per_stream_and_may_carry_gradients() -> None:
    ledger, count_B = MacLedger(2, 100.0), torch.tensor([1.0, 2.0], requires_grad=True)
    ledger.add("qk", 3.0)
    ledger.add("qk", np.array([1.0, 5.0]))
    ledger.add("token_wise", count_B * 10)
    ledger.add("embed", 7.0)
    macs = ledger.report()
    assert macs.by_operation["qk"].tolist() == [4.0, 8.0]
    assert macs.total.tolist() == [14.0, 28.0] and macs.share.tolist() == macs.ratio.tolist() == [0.14, 0.28]
    assert macs.overall_share.tolist() == pytest.approx([21 / 107, 35 / 107])
    macs.total.sum().backward()
    assert count_B.grad.tolist() == [10.0, 10.0]


def test_linear_macs() -> None:
    assert linear_macs(nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2)), None, nn.Linear(4, 4)) == 41.0
