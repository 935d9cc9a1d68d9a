"""The system of Eventful Transformers' ViViT experiments against figures of the authors' own code (commit fc53c2c)."""

from __future__ import annotations

import pytest
import torch
from golden_vivit import golden_frames
from torch import Tensor

import eventful
import policies
from envs.vivit import ViewPlan, ViViT, encode, video_probabilities, view_steps
from envs.vivit.paper_column import top_r_macs, view_macs
from eventful import EventfulModel

ALL_VIEWS, ONE_VIEW = ViewPlan(64, stride=2, frames=8), ViewPlan(64, stride=2, frames=8, starts=1, crops=1)
LANDSCAPE, SHORT_PORTRAIT = (40, 72, 96), (11, 80, 50)

CASES = {
    "dense": (
        ALL_VIEWS,
        LANDSCAPE,
        None,
        [2.377244, -1.73993, 0.6344081, -1.008347, -0.920572, 0.6825356],
        [1.967521, -1.315321, -0.8792531, 0.5105047, -0.06276595, 0.8974186],
        [0.376417, 0.773016, 0.922392, 0.418878, 1.10705, -1.97287, -0.255271, -0.462182, -0.64483, 0.767073],
        {37: 0.055364, 57: 0.0313666, 62: 0.0289657, 86: 0.0288051, 24: 0.0264455},
    ),
    "eventful": (
        ALL_VIEWS,
        LANDSCAPE,
        5,
        [2.377244, -1.709752, 0.4533543, -1.008347, -0.6513669, 0.7835518],
        [2.106656, -1.236818, -1.335352, 0.3656726, -0.06828467, 0.4752564],
        [0.291436, 0.733992, 0.943056, 0.329836, 1.13973, -1.91038, -0.238687, -0.407049, -0.612183, 0.722316],
        {37: 0.0606245, 57: 0.029063, 24: 0.028097, 79: 0.0247816, 86: 0.024693},
    ),
    "dense, one view": (
        ONE_VIEW,
        LANDSCAPE,
        None,
        [1.753227, 0.245137, -1.655275, -0.2401162, -0.4836428, 0.01371063],
        [1.213593, 0.4243434, -1.337509, -0.3907119, -0.1548483, 0.9697487],
        [-0.147164, 1.03758, 0.341121, 0.706957, -0.141099, -2.38374, -0.0638568, -0.664596, -1.81316, 0.510776],
        {62: 0.0678288, 37: 0.054779, 72: 0.0477221, 56: 0.0428554, 76: 0.0355607},
    ),
    "eventful, one view": (
        ONE_VIEW,
        LANDSCAPE,
        5,
        [1.753227, 0.245137, -1.113361, -0.455094, -0.2507336, 0.08993565],
        [1.29614, 0.4964215, -1.308304, -0.5605669, -0.2857122, 0.7329147],
        [-0.0116233, 1.08652, 0.268424, 0.766382, -0.319122, -2.29429, -0.194077, -0.452753, -1.67321, 0.27605],
        {37: 0.0567252, 62: 0.0546156, 72: 0.0445773, 56: 0.0422412, 76: 0.0297205},
    ),
    "dense, short and upright": (
        ALL_VIEWS,
        SHORT_PORTRAIT,
        None,
        [1.802937, -0.8643991, 0.1803869, 0.76341, -0.3955243, 0.7533829],
        [0.9549882, -0.7859901, -0.8298851, -0.3906347, -0.7389035, 0.02284793],
        [-0.723917, 0.349488, -0.0163621, 0.252577, 1.002, -1.05871, -0.520867, -0.667595, -0.978735, -0.111305],
        {89: 0.0811083, 66: 0.0507126, 79: 0.0373308, 37: 0.0339747, 17: 0.0338139},
    ),
}
"""Views, video (frames, height, width), r; six values of the class tokens and of the temporal part's output, spread
over them; the first logits, averaged over views; the five most probable classes."""


def spread(x: Tensor, count: int = 6) -> Tensor:
    """Values at equal distances, from the first to the last."""
    return x.flatten()[[int(i * (x.numel() - 1) / (count - 1)) for i in range(count)]]


def near(values: Tensor, golden: object, within: float = 1e-4) -> None:
    torch.testing.assert_close(values, torch.tensor(golden), atol=within, rtol=0)


def published(vivit: ViViT, r: int) -> EventfulModel:
    return eventful.wrap(vivit.spatial, policies.TopR(r), attention="paper", prefix="ordinary")


@pytest.mark.parametrize(("plan", "video", "r", "tokens", "features", "logits", "top"), CASES.values(), ids=CASES)
@torch.no_grad()
def test_the_published_outputs(
    small_vivit: ViViT,
    plan: ViewPlan,
    video: tuple[int, int, int],
    r: int | None,
    tokens: list[float],
    features: list[float],
    logits: list[float],
    top: dict[int, float],
) -> None:
    spatial = small_vivit.spatial if r is None else published(small_vivit, r)
    encoded = encode(spatial, view_steps(golden_frames(*video), plan))
    near(spread(encoded.tokens_VSD), tokens)
    near(spread(small_vivit.temporal.features(encoded.tokens_VSD)), features)
    logits_VK = small_vivit.temporal(encoded.tokens_VSD)
    near(logits_VK.mean(0)[:10], logits)
    found = video_probabilities(logits_VK).topk(5)
    assert found.indices.tolist() == list(top)
    near(found.values, list(top.values()), 1e-5)


GATES = [
    [[1, 5, 9, 10, 14], [5, 6, 9, 10, 15], [1, 5, 6, 9, 15]],
    [[3, 6, 9, 10, 14], [1, 6, 14, 15, 16], [0, 1, 6, 14, 15]],
    [[1, 5, 9, 10, 14], [1, 5, 6, 9, 10], [1, 2, 5, 6, 9]],
    [[1, 5, 9, 10, 14], [1, 5, 6, 9, 10], [1, 2, 5, 6, 9]],
    [[7, 8, 9, 13, 16], [1, 5, 9, 10, 14], [1, 2, 4, 5, 16]],
    [[1, 5, 9, 10, 14], [1, 5, 6, 9, 10], [1, 2, 3, 5, 6]],
    [[1, 5, 9, 10, 14], [1, 5, 6, 9, 10], [1, 2, 3, 5, 6]],
    [[1, 4, 5, 6, 14], [0, 4, 6, 14, 15], [0, 1, 5, 6, 8]],
    [[1, 5, 9, 10, 14], [1, 5, 6, 9, 10], [1, 2, 3, 5, 6]],
]
"""What the published gates select in one view at r = 5: by gate, then step after the first. 0 is the class token."""


@torch.no_grad()
def test_the_published_selections(small_vivit: ViViT) -> None:
    model, selected = published(small_vivit, 5), []
    for step in view_steps(golden_frames(*LANDSCAPE), ONE_VIEW):
        model(step)
        selected.append([gate_N.nonzero()[:, 0].tolist() for gate_N in model.state.updated()[0]])
    assert [list(steps) for steps in zip(*selected[1:], strict=True)] == GATES


def test_the_published_counts_of_the_small_model(small_vivit: ViViT) -> None:
    assert view_macs(small_vivit) == dict(add=24048, bias=92545, linear=5921328, matmul=337728)
    assert top_r_macs(small_vivit, 5) == dict(
        accumulator=16848, add=24048, bias=45889, gate=37179, linear=2935344, matmul=234912
    )


@torch.no_grad()
def test_the_ledger_of_a_run_has_the_published_products(small_vivit: ViViT) -> None:
    counts, dense = top_r_macs(small_vivit, 5), view_macs(small_vivit)
    macs = encode(published(small_vivit, 5), view_steps(golden_frames(*LANDSCAPE), ALL_VIEWS)).macs
    spatial = {
        name: sum(step.by_operation[name] for step in macs if name in step.by_operation)
        for name in ("token_wise", "qk", "av", "merge")
    }
    # Of the temporal part and the classifier, which are the same for all policies: two blocks, five tokens.
    linear, matmul = 2 * 12 * 5 * 48**2 + 48 * 97, 2 * 2 * 5 * 5 * 48
    assert spatial["token_wise"].tolist() == [counts["linear"] - linear] * 12
    assert (spatial["qk"] + spatial["av"]).tolist() == [counts["matmul"] - matmul] * 12
    assert spatial["merge"].tolist() == [counts["accumulator"]] * 12
    assert sum(step.dense for step in macs) == dense["linear"] + dense["matmul"] - linear - matmul


@pytest.mark.parametrize(
    ("size", "classes", "golden", "clip"),
    [
        (224, 400, {None: 279.965, 48: 84.704}, {None: 3.360, 96: 1.814, 48: 1.016, 24: 0.618}),
        (320, 97, {None: 593.502, 100: 188.057}, {None: 7.12, 280: 5.49, 200: 4.05, 120: 2.62, 100: 2.26, 50: 1.36}),
    ],
    ids=["Kinetics-400", "EPIC-Kitchens-100"],
)
def test_the_published_counts_of_vivit_b(
    size: int, classes: int, golden: dict[int | None, float], clip: dict[int | None, float]
) -> None:
    with torch.device("meta"):
        vivit = ViViT(size, classes)
    tera = {r: sum((view_macs(vivit) if r is None else top_r_macs(vivit, r)).values()) / 1e12 for r in golden | clip}
    assert {r: round(1e3 * tera[r], 3) for r in golden} == golden
    for r, published_clip in clip.items():
        assert 12 * tera[r] == pytest.approx(published_clip, abs=0.006)
