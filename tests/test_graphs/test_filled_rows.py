"""Policies that select as many tokens as they see fit, as a fixed number of rows: the model, frame by frame."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from family_zoo import build, clip
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import eventful
import policies
from eventful.errors import SelectionError, UserError
from eventful.graphs import GraphedStream
from eventful.graphs.filling import filled
from eventful.rows import FilledRows, PackedRows
from policies.protocol import GateObservation, Selection

FRAME, RECOMPUTE = {"granularity": "frame"}, {"attention": "recompute"}
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


def changing(counts: Sequence[int]) -> list[Tensor]:
    """Frames in which so many patches differ from the frame before; the first one is followed by as many others."""
    (frame,) = clip(1)
    frames = [frame]
    for t, count in enumerate(counts):
        patches = frames[-1].clone().unfold(2, 8, 8).unfold(3, 8, 8)
        rows, columns = patches.shape[2:4]
        for patch in range(count):
            at = (patch * 7 + t) % (rows * columns)
            patches[:, :, at // columns, at % columns] += 1
        frames.append(patches.permute(0, 1, 2, 4, 3, 5).reshape(frame.shape).contiguous())
    return frames


def learned(gates: int, granularity: policies.Granularity) -> policies.LearnedPolicy:
    torch.manual_seed(3)
    policy = policies.LearnedPolicy(gates=gates, dim=32, granularity=granularity, budget=0.3)
    for weight in policy.parameters():
        nn.init.normal_(weight, std=0.2)
    return policy


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 12)),
    size=st.integers(1, 12),
    pinned=st.integers(0, 2),
    seed=st.integers(0, 999),
)
def test_rows_that_fit_are_those_selected_and_no_others(
    shape: tuple[int, int], size: int, pinned: int, seed: int
) -> None:
    B, N = shape
    size, pinned = min(size, N), min(pinned, N)
    draw = torch.Generator().manual_seed(seed)
    mask_BN = torch.rand(B, N, generator=draw) < torch.rand((), generator=draw)
    score_BN = torch.randn(B, N, generator=draw)
    made = filled(Selection(mask_BN=mask_BN, score_BN=score_BN), N, size, pinned)
    found_BN = made.as_mask(N)
    assert made.index_BM is not None
    assert all(len(set(row)) == size for row in made.index_BM.tolist()), "each row is another token"
    assert not (found_BN & ~mask_BN).any()
    for found_N, mask_N, score_N in zip(found_BN, mask_BN, score_BN, strict=True):
        assert found_N.sum() == min(int(mask_N.sum()), size)
        left_N = mask_N & ~found_N
        if left_N[pinned:].any() and found_N[pinned:].any():
            assert score_N[pinned:][found_N[pinned:]].min() >= score_N[pinned:][left_N[pinned:]].max()
        if left_N[:pinned].any():
            assert not found_N[pinned:].any(), "pinned tokens come first"


def test_rows_that_only_fill_up_leave_everything_as_it_is() -> None:
    torch.manual_seed(0)
    mask_BN = torch.tensor([[True, False, True, False, False], [False, False, False, False, True]])
    made = filled(Selection(mask_BN=mask_BN), 5, 3, 0)
    assert made.index_BM is not None
    assert made.valid_BM is not None
    rows, plain = FilledRows(made.index_BM, made.valid_BM, 5), PackedRows.from_mask(mask_BN)
    new = torch.randn(2, 5, 4)
    buffer = torch.randn(2, 5, 4)
    assert torch.equal(rows.put(buffer.clone(), rows.take(new)), plain.put(buffer.clone(), plain.take(new)))
    stamp_BN = torch.arange(10, dtype=torch.int32).view(2, 5)
    assert torch.equal(rows.stamp(stamp_BN.clone(), 77), plain.stamp(stamp_BN.clone(), 77))
    assert torch.equal(rows.mask(), mask_BN)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", [FRAME, RECOMPUTE], ids=["frame", "recompute"])
@pytest.mark.parametrize("which", ["threshold", "learned"])
def test_a_threshold_is_the_model_frame_by_frame(which: str, options: dict[str, Any], device: str) -> None:
    vit = build("ViT").to(device)
    granularity: policies.Granularity = "frame" if options is FRAME else "gate"
    gates = 1 if options is FRAME else 3 * len(vit.blocks)
    policy = policies.Threshold(0.4) if which == "threshold" else learned(gates, granularity).to(device)
    model = eventful.wrap(vit, policy, **options)
    frames = [frame.to(device) for frame in clip(8, streams=2)]
    stream = GraphedStream(model, frames[0], sizes=[])
    assert stream.captured == (device == "cuda")
    counted = []
    for frame in frames:
        found = stream(frame)
        with torch.inference_mode():
            expected = model(frame)
        counted.append(float(model.macs.share[0]))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert len(set(counted)) > 2, "the policy selects another number in each frame"


@pytest.mark.parametrize("device", DEVICES)
def test_a_frame_has_the_rows_that_the_one_before_it_asked_for(device: str) -> None:
    frames = [frame.to(device) for frame in changing([1, 3, 5, 7, 2, 2])]
    model = eventful.wrap(build("ViT").to(device), policies.Threshold(0.0), **FRAME)
    tokens = model.layout(frames[0]).tokens
    stream = GraphedStream(model, frames[0], sizes=[4, 8, 12])
    seen, shares = [], []
    for frame in frames:
        with torch.inference_mode():
            torch.testing.assert_close(stream(frame), model(frame), atol=1e-4, rtol=1e-4)
        seen.append(stream.rows)
        shares.append(stream.share)
    # After the flush all rows, as nobody has been asked; then 2, 4, 6, 8, 3 (the class token is one of them) and a
    # quarter more, rounded up.
    assert seen[1:] == [tokens, 4, 8, 8, 12, 4]
    assert shares[2] < shares[3] == shares[4] < shares[5], "rows that were not needed are paid, too"


def test_tokens_without_a_row_get_one_in_the_next_frame() -> None:
    frames = clip(6)
    model = eventful.wrap(build("ViT"), policies.Threshold(0.0), **RECOMPUTE)
    stream = GraphedStream(model, frames[0], sizes=[2])
    for frame in [frames[0]] * 3:
        stream(frame)
    assert stream.rows == 2, "nothing changes"
    with torch.inference_mode():
        dense = model.vit(frames[5])
    assert not torch.allclose(stream(frames[5]), dense, atol=1e-4), "there were two rows for all that has changed"
    torch.testing.assert_close(stream(frames[5]), dense, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", ["exact", "paper", "recompute"])
def test_rows_that_are_not_meant_change_nothing(attention: Any) -> None:
    class Meant(policies.TopR):
        def select(self, observation: GateObservation) -> Selection:
            index_BM = super().select(observation).index_BM
            assert index_BM is not None
            return Selection(index_BM=index_BM, valid_BM=torch.arange(self.r).expand_as(index_BM) < 4)

    class Alone(Meant):
        def select(self, observation: GateObservation) -> Selection:
            return Selection(mask_BN=super().select(observation).as_mask(observation.layout.tokens))

    vit = build("ViT")
    one, other = (eventful.wrap(vit, kind(9), attention=attention) for kind in (Meant, Alone))
    with torch.inference_mode():
        for frame in clip(5, streams=2):
            torch.testing.assert_close(one(frame), other(frame), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("valid_BM", [torch.ones(1, 3), torch.ones(1, 2, dtype=torch.bool)])
def test_what_is_meant_is_looked_at(valid_BM: Tensor) -> None:
    class Wrong(policies.Policy):
        def select(self, observation: GateObservation) -> Selection:
            return Selection(index_BM=torch.arange(3)[None], valid_BM=valid_BM)

    model = eventful.wrap(build("ViT"), Wrong(), **FRAME)
    model(clip(1)[0])
    with pytest.raises(SelectionError, match="valid_BM must be bool of the shape of index_BM, "):
        model(clip(1)[0])
    with pytest.raises(ValueError, match="there is no index_BM"):
        Selection(mask_BN=torch.ones(1, 3, dtype=torch.bool), valid_BM=valid_BM)


def test_references_that_forget_what_had_no_row_are_refused() -> None:
    model = eventful.wrap(build("ViT"), policies.Threshold(0.0), **RECOMPUTE, reference="previous")
    with pytest.raises(UserError, match="would never be noticed again"):
        GraphedStream(model, clip(1)[0])


def test_sizes_that_do_not_fit_are_refused() -> None:
    frame = clip(1)[0]
    varying = eventful.wrap(build("ViT"), policies.Threshold(0.1), **FRAME)
    for sizes in ([0], [10_000], [2.5]):
        with pytest.raises(UserError, match=re.escape("sizes must be whole numbers from 1 to ")):
            GraphedStream(varying, frame, sizes=sizes)  # type: ignore[arg-type]  # as a user would
    with pytest.raises(UserError, match="selects a number of tokens of its own, so there is one size"):
        GraphedStream(eventful.wrap(build("ViT"), policies.TopR(3), **FRAME), frame, sizes=[4])
