"""The ViTDet backbone, dense and eventful, against figures of the authors' own code on the small golden model."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
import torch
from golden_vitdet import golden_backbone, golden_input, golden_weight, probes
from torch import Tensor

import eventful
import policies
from eventful.attention.relative import relative_array
from eventful.families.vitdet import PositionedPatchEmbed
from eventful.macs.paper_column import Architecture, Selected, flush_macs, steady_macs

PAPER: dict[str, Any] = {"attention": "paper"}
TOKEN_WISE: dict[str, Any] = {"attention": "recompute"}
TOP_R, POOLED, STRETCHED = policies.TopR(100), {"kv_pool": 2}, {"relative": 32}

# Model, policy, options of `wrap`; standard deviation and probes of the features of the last frame: the first where
# there is no policy, else the third.
CASES: dict[str, tuple[dict[str, int], Any, dict[str, Any], float, list[float]]] = {
    "dense": ({}, None, {}, 2.018865, [-2.101, 0.7828389, 0.6898119, 1.092825, 3.0584, -0.925222]),
    "dense, stretched": (
        STRETCHED, None, {}, 2.02128, [-2.047931, 0.8554465, 0.7093005, 1.281088, 2.939734, -0.2545246]
    ),
    "dense, pooled": (POOLED, None, {}, 2.015165, [-1.813722, 0.8681913, 0.7397882, 1.261422, 2.974831, -0.7319306]),
    "all of it": ({}, TOP_R, PAPER, 2.022334, [-1.520369, 0.6960538, 1.406685, 1.527334, 3.542241, -0.8011698]),
    "all of it, stretched": (
        STRETCHED, TOP_R, PAPER, 2.02574, [-1.477869, 0.7686617, 1.426174, 1.993417, 3.423575, -0.2545246]
    ),
    "all of it, pooled": (
        POOLED, TOP_R, PAPER, 2.020532, [-1.2826, 0.7814065, 1.456661, 1.664504, 3.458672, -0.7319306]
    ),
    "token-wise": ({}, TOP_R, TOKEN_WISE, 2.0226, [-1.532719, 0.6960538, 1.406685, 1.561892, 3.542241, -0.8456208]),
    "STGT": (
        {}, TOP_R, TOKEN_WISE | {"reference": "previous"}, 2.024279,
        [-1.422929, 0.6960538, 1.406685, 1.561892, 3.542241, -0.925222],
    ),
    "threshold": (
        {}, policies.Threshold(2.0), PAPER, 2.024612, [-1.646989, 0.5542117, 0.8487887, 2.0025, 3.93304, -0.925222]
    ),
}  # fmt: skip

# Multiply-accumulates of that frame, by the authors' counters.
DENSE_MACS = dict(add=2341632, bias=691488, einsum=2199552, linear=44236800, matmul=34701312)
POOLED_MACS = dict(add=901632, bias=691488, einsum=1431552, linear=44236800, matmul=11661312)
TOKEN_WISE_MACS = dict(add=2341632, bias=173088, einsum=2199552, gate=230400, linear=11059200, matmul=34701312)
PAPER_MACS = TOKEN_WISE_MACS | dict(accumulator=86400, gate=1228800, matmul=19341312)
MACS = {
    "dense": DENSE_MACS,
    "dense, stretched": DENSE_MACS,
    "dense, pooled": POOLED_MACS,
    "all of it": PAPER_MACS,
    "all of it, stretched": PAPER_MACS,
    "all of it, pooled": POOLED_MACS
    | dict(accumulator=82080, bias=173088, gate=480000, linear=11059200, matmul=11277312),
    "token-wise": TOKEN_WISE_MACS,
    "STGT": TOKEN_WISE_MACS,
    "threshold": PAPER_MACS | dict(accumulator=96048, bias=319632, linear=20920320, matmul=34778112),
}

# Check sums of the tokens that each gate of the four blocks selects in the second and the third frame.
SELECTED = [
    (13843376, 802478414), (2812318701, 2915025905), (551012978, 4168078387),
    (3807287569, 4112370442), (3248532302, 3645465427), (2185035389, 790045249),
    (3007048527, 163456320), (3630633043, 118646409), (3062104134, 642151121),
    (629967356, 774793053), (885775957, 947807052), (3987991700, 1672144264),
]  # fmt: skip

# Numbers of tokens that the threshold lets through.
PASSED = [
    (251, 250), (43, 38), (239, 240), (225, 226), (1, 0), (216, 210),
    (202, 196), (30, 29), (195, 187), (189, 175), (0, 0), (176, 172),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def features(case: str) -> tuple[list[Tensor], list[eventful.StreamState]]:
    """Features (1, 400, 48) of the frames of a case, and the states that they left."""
    options, policy, wrapping, _, _ = CASES[case]
    model = golden_backbone(**options)
    outs, states = [], []
    with torch.inference_mode():
        if policy is None:
            outs.append(model.forward_features(golden_input(0)))
        else:
            wrapped, state = eventful.wrap(model, policy, **wrapping), None
            for t in range(3):
                out, state = wrapped.step_features(golden_input(t), state)
                outs.append(out)
                states.append(state.clone())
    return [out.flatten(2).transpose(1, 2) for out in outs], states


def cells(selected_N: Tensor) -> int:
    """Number of 2x2 cells of the 20 x 20 grid that hold a selected token."""
    return len({(int(n) // 20 // 2, int(n) % 20 // 2) for n in selected_N.nonzero()[:, 0]})


@pytest.mark.parametrize("case", CASES)
def test_features_and_compute_are_the_authors(case: str) -> None:
    options, _, wrapping, deviation, expected = CASES[case]
    outs, states = features(case)
    assert float(outs[-1].std(correction=0)) == pytest.approx(deviation, abs=1e-4)
    torch.testing.assert_close(probes(outs[-1]), torch.tensor(expected), atol=1e-4, rtol=0)

    pool = options.get("kv_pool", 1)
    sizes = Architecture((20, 20), 48, 3, 4, window=6, windowed=frozenset({0, 2}), relative=True, pool=pool)
    counts = flush_macs(sizes)
    if states:
        gates_BG = states[-1].updated()[0].split(3)
        chosen = [Selected(*gates.sum(1).tolist(), cells(gates[0]) if pool > 1 else None) for gates in gates_BG]
        counts = steady_macs(sizes, chosen, token_wise_only=wrapping["attention"] == "recompute")
        assert states[-1].macs is not None
        ledger = {name: float(amount) for name, amount in states[-1].macs.by_operation.items()}
        assert ledger["token_wise"] == MACS[case]["linear"]
        assert ledger["qk"] + ledger["av"] == MACS[case]["matmul"]
        assert ledger["bias"] == MACS[case]["einsum"]
        assert ledger.get("merge", 0.0) == MACS[case].get("accumulator", 0)
    assert counts == MACS[case]


def test_every_gate_selects_the_authors_tokens() -> None:
    _, states = features("all of it")
    for t in (1, 2):
        for gate, (updated_N, sums) in enumerate(zip(states[t].updated()[0], SELECTED, strict=True)):
            tokens = ",".join(map(str, updated_N.nonzero()[:, 0].tolist()))
            assert zlib.crc32(tokens.encode()) == sums[t - 1], f"frame {t}, gate {gate}"


def test_the_threshold_lets_as_many_tokens_through() -> None:
    _, states = features("threshold")
    for t in (1, 2):
        assert states[t].updated()[0].sum(1).tolist() == [counts[t - 1] for counts in PASSED]


@pytest.mark.parametrize(
    ("side", "grid", "expected"),
    [
        (14, 42, [-0.2329333, -0.03460155, 0.1350311, 0.1184399, -0.03020864, -0.05323977]),
        (14, 64, [-0.2332516, 0.2018756, -0.08519731, 0.4763193, -0.1456892, -0.05290978]),
        (7, 20, [-0.2466601, -0.001128763, -0.08887323, -0.1080012, 0.03054528, 0.4846399]),
    ],
)
def test_positions_are_stretched_as_published(side: int, grid: int, expected: list[float]) -> None:
    embed = PositionedPatchEmbed(img_size=16 * grid, embed_dim=8, position_side=side, stem="patch")
    with torch.no_grad():
        embed.proj.weight.zero_()
        embed.proj.bias.zero_()
        table = golden_weight("backbone.position_encoding.encoding", (1, side * side, 8))
        embed.pos_embed.copy_(table.view(1, side, side, 8))
        tokens = embed(torch.zeros(1, 3, 16 * grid, 16 * grid))
    torch.testing.assert_close(probes(tokens), torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("made_for", "side", "pool", "expected"),
    [
        (64, 42, 1, [0.1049182, 0.2623011, 0.01054837, -0.1329801, -0.1023007, -0.1016282]),
        (32, 20, 1, [0.1109943, 0.1422482, -0.08619335, 0.2977346, 0.3199863, -0.1144989]),
        (20, 20, 2, [-0.02987623, -0.04546158, -0.06406565, -0.08633348, -0.1027235, 0.128666]),
        (64, 42, 2, [0.1263602, 0.1410565, 0.03111568, 0.1265912, 0.1440789, 0.026243]),
    ],
)
def test_relative_positions_are_stretched_and_pooled_as_published(
    made_for: int, side: int, pool: int, expected: list[float]
) -> None:
    table = golden_weight("backbone.blocks.2.relative_position.y_embedding", (2 * made_for - 1, 8))
    array = relative_array(table, side, "array", pool)
    assert array.shape == (side, side // pool, 8)
    torch.testing.assert_close(probes(array), torch.tensor(expected), atol=1e-6, rtol=0)
