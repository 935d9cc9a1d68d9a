"""The compute column of the paper, and the runtime's own ledger against it."""

from __future__ import annotations

import dataclasses

import pytest
import timm
import torch

import eventful
import policies
from eventful.families.vitdet import vitdet
from eventful.macs.paper_column import Architecture, Selected, flush_macs, steady_macs, vitdet_b, vivit_b_spatial

GIGA = 1e9
FRAMES = (250, 270)
"""Length of a video, over which the published averages spread the flush."""


def same(architecture: Architecture, r: float, cells: float | None = None) -> list[Selected]:
    """Every gate selects r tokens."""
    return [Selected(r, r, r, cells)] * architecture.depth


def steady(architecture: Architecture, r: float, token_wise_only: bool = False) -> float:
    """Giga-MACs of a frame after the flush."""
    return sum(steady_macs(architecture, same(architecture, r), token_wise_only).values()) / GIGA


def flush(architecture: Architecture) -> float:
    """Giga-MACs of a dense frame."""
    return sum(flush_macs(architecture).values()) / GIGA


@pytest.mark.parametrize(
    ("size", "pool", "golden"), [(1024, 1, 467.44), (672, 1, 174.50), (672, 2, 159.71), (1024, 2, 388.12)]
)
def test_vitdet_flush(size: int, pool: int, golden: float) -> None:
    assert flush(vitdet_b(size, pool)) == pytest.approx(golden, rel=1e-4)


@pytest.mark.parametrize(
    ("size", "r", "token_wise_only", "golden"),
    [
        (1024, 512, False, 86.39),
        (1024, 512, True, 162.85),
        (672, 128, False, 19.28),
        (672, 256, False, 32.93),
        (672, 512, False, 60.25),
        (672, 128, True, 35.46),
        (672, 256, True, 46.34),
        (672, 512, True, 68.10),
    ],
)
def test_vitdet_steady_state(size: int, r: int, token_wise_only: bool, golden: float) -> None:
    assert steady(vitdet_b(size), r, token_wise_only) == pytest.approx(golden, rel=3e-4)


@pytest.mark.parametrize(
    ("size", "r", "golden"),
    [
        (
            1024,
            512,
            dict(linear=43.487, matmul=37.571, einsum=2.454, add=1.874, gate=0.931, bias=0.042, accumulator=0.027),
        ),
        (
            672,
            256,
            dict(linear=21.743, matmul=9.798, einsum=0.759, add=0.399, gate=0.204, bias=0.021, accumulator=0.012),
        ),
    ],
)
def test_vitdet_by_operation(size: int, r: int, golden: dict[str, float]) -> None:
    counts = steady_macs(vitdet_b(size), same(vitdet_b(size), r))
    assert {name: round(amount / GIGA, 3) for name, amount in counts.items()} == golden


@pytest.mark.parametrize(
    ("size", "published", "token_wise_only"),
    [
        (1024, {2048: 294.9, 1536: 225.9, 1024: 156.8, 768: 122.3, 512: 87.8, 256: 53.3}, False),
        (1024, {2048: 294.1, 1536: 250.7, 1024: 207.3, 768: 185.7, 512: 164.0, 256: 142.3}, True),
        (672, {1024: 115.1, 768: 87.9, 512: 60.7, 384: 47.1, 256: 33.5, 128: 19.9}, False),
        (672, {512: 68.5, 256: 46.8, 128: 36.0}, True),
    ],
)
def test_vitdet_published_averages(size: int, published: dict[int, float], token_wise_only: bool) -> None:
    for r, average in published.items():
        frame, dense = steady(vitdet_b(size), r, token_wise_only), flush(vitdet_b(size))
        low, high = (frame + (dense - frame) / frames for frames in reversed(FRAMES))
        assert average == pytest.approx((low + high) / 2, rel=0.005)


@pytest.mark.parametrize(
    ("r", "published"), [(2048, 217.0), (1536, 169.3), (1024, 121.0), (768, 96.3), (512, 70.9), (256, 44.5)]
)
def test_vitdet_pooled_averages_need_a_possible_number_of_cells(r: int, published: float) -> None:
    # How many pooled cells r tokens share depends on the footage: r / 4 at best, r (or all of them) at worst.
    architecture = vitdet_b(1024, pool=2)
    cells_all = architecture.tokens / 4
    dense, averages = flush(architecture), []
    for cells in (r / 4, min(float(r), cells_all)):
        frame = sum(steady_macs(architecture, same(architecture, r, cells)).values()) / GIGA
        averages.append(frame + (dense - frame) / 260)
    assert averages[0] <= published <= averages[1]


@pytest.mark.parametrize(
    ("size", "published"),
    [
        (320, {None: 7.12, 280: 5.49, 200: 4.05, 120: 2.62, 100: 2.26, 50: 1.36}),
        (224, {None: 3.360, 96: 1.814, 48: 1.016, 24: 0.618}),
    ],
)
def test_vivit_published_clips(size: int, published: dict[int | None, float]) -> None:
    # 12 views of 32 frames, two to a tubelet; the temporal part sees 16 tokens and a class token, densely.
    spatial = vivit_b_spatial(size)
    temporal = flush(dataclasses.replace(spatial, grid=(1, 16), depth=4))
    for r, clip in published.items():
        frames = 16 * flush(spatial) if r is None else flush(spatial) + 15 * steady(spatial, r)
        assert 12 * (frames + temporal) / 1e3 == pytest.approx(clip, rel=0.005)


VIT_TI = Architecture((14, 14), 192, 3, 12)


def test_vit_ti() -> None:
    assert flush(VIT_TI) == pytest.approx(1.2225, rel=1e-4)
    assert steady(VIT_TI, 30, token_wise_only=True) == pytest.approx(0.3392, rel=1e-4)
    counts = steady_macs(VIT_TI, same(VIT_TI, 30))
    golden = dict(linear=159.25, matmul=54.19, gate=3.19, accumulator=0.97, add=0.94, bias=0.62)
    assert {name: round(amount / 1e6, 2) for name, amount in counts.items()} == golden


def test_ledger_of_a_real_run_has_the_published_products() -> None:
    torch.set_num_threads(1)
    vit = timm.create_model("vit_tiny_patch16_224", class_token=False, global_pool="avg", num_classes=0).eval()
    model = eventful.wrap(vit, policies.TopR(30), attention="paper")
    with torch.inference_mode():
        model(torch.randn(1, 3, 224, 224))
        dense = {name: float(amount) for name, amount in model.macs.by_operation.items()}
        model(torch.randn(1, 3, 224, 224))
    operations = {name: float(amount) for name, amount in model.macs.by_operation.items()}

    first, counts = flush_macs(VIT_TI), steady_macs(VIT_TI, same(VIT_TI, 30))
    assert (dense["token_wise"], dense["qk"] + dense["av"]) == (first["linear"], first["matmul"])
    assert operations["token_wise"] == counts["linear"]
    assert operations["qk"] + operations["av"] == counts["matmul"]
    assert operations["merge"] == counts["accumulator"]
    # The paper counts a gate over the N x N weights too; this runtime never subtracts more than the changed columns.
    assert operations["gates"] == 3 * 12 * 196 * 192


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("mode", ["paper", "recompute"])
def test_ledger_of_a_vitdet_run_has_the_published_products(pool: int, mode: str) -> None:
    # 10 x 10 tokens: windows of 4 are padded, cells of 2 are not.
    torch.set_num_threads(1)
    vit = vitdet(160, embed_dim=24, depth=2, heads=2, window=4, global_blocks=[1], kv_pool=pool)
    sizes = Architecture((10, 10), 24, 2, 2, window=4, windowed=frozenset([0]), relative=True, pool=pool)
    model = eventful.wrap(vit.eval(), policies.TopR(9), attention=mode)
    state = None
    with torch.no_grad():
        for _ in range(2):
            _, state = model.step(torch.randn(1, 3, 160, 160), state)
    place = state.updated()[0, 3].nonzero()[:, 0]
    cells = len({(int(n) // 10 // 2, int(n) % 10 // 2) for n in place}) if pool == 2 else None

    counts = steady_macs(sizes, [Selected(9, 9, 9), Selected(9, 9, 9, cells)], token_wise_only=mode == "recompute")
    operations = {name: float(amount) for name, amount in state.macs.by_operation.items()}
    assert operations["token_wise"] == counts["linear"]
    assert operations["qk"] + operations["av"] == counts["matmul"]
    assert operations["bias"] == counts["einsum"]
    assert operations.get("merge", 0.0) == counts["accumulator"]


def test_steady_macs_checks_its_input() -> None:
    with pytest.raises(ValueError, match="12 blocks"):
        steady_macs(VIT_TI, [Selected(1, 1, 1)])
    with pytest.raises(ValueError, match="cells"):
        steady_macs(vitdet_b(672, pool=2), same(vitdet_b(672), 8))
