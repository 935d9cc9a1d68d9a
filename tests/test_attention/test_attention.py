"""Partial attention, merging, and the exact update against attention computed from scratch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eventful.attention.full import FullAttention
from eventful.attention.kernels import partial_attention, plain_attention
from eventful.attention.merge import REFRESH_BELOW, merge
from eventful.macs.ledger import MacLedger
from eventful.rows import AllRows, PackedRows
from eventful.state import AttentionState

B, N, H, d = 2, 40, 3, 16


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def plain(q_BRHd: Tensor, k_BKHd: Tensor, v_BKHd: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The definition, in float64: outputs (B, R, H, d) and log-sum-exps (B, R, H)."""
    q, k, v = (x.double().transpose(1, 2) for x in (q_BRHd, k_BKHd, v_BKHd))
    out, lse = plain_attention(q, k, v, bias, d**-0.5)
    return out.transpose(1, 2), lse.transpose(1, 2)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
@pytest.mark.parametrize("keys", [1, 7, 40, 130])
@pytest.mark.parametrize("biased", [False, True])
def test_partial_attention_is_plain_attention(dtype: torch.dtype, atol: float, keys: int, biased: bool) -> None:
    q, k, v = (torch.randn(B, n, H, d).to(dtype) for n in (9, keys, keys))
    bias = torch.randn(B, H, 9, keys).to(dtype) if biased else None
    out, lse = partial_attention(q, k, v, bias)
    expected, expected_lse = plain(q, k, v, bias)
    assert out.dtype == dtype and lse.dtype == torch.float32
    torch.testing.assert_close(out.double(), expected, atol=atol, rtol=0)
    torch.testing.assert_close(lse.double(), expected_lse, atol=atol, rtol=0)


def test_partial_attention_takes_float64_and_its_own_scale() -> None:
    q, k, v = torch.randn(3, B, N, H, d, dtype=torch.float64)
    out, _ = partial_attention(q, k, v, scale=0.5)
    weights = (torch.einsum("bnhd,bmhd->bhnm", q, k) * 0.5).softmax(-1)
    torch.testing.assert_close(out, torch.einsum("bhnm,bmhd->bnhd", weights, v))


@pytest.mark.parametrize(("peak", "atol"), [(1.0, 1e-5), (8.0, 2e-4)])
def test_merge_replaces_the_share_of_some_keys(peak: float, atol: float) -> None:
    q, k, v = torch.randn(3, B, N, H, d)
    q = q * peak
    changed, rows = torch.arange(10), PackedRows.from_index(torch.arange(10, N).expand(B, -1), N)
    new_k, new_v = k.clone(), v.clone()
    new_k[:, changed], new_v[:, changed] = torch.randn(2, B, 10, H, d)
    out, lse = (x.float().contiguous() for x in plain(q, k, v))
    part, part_lse = zip(
        *(plain(q[:, 10:], keys[:, changed], values[:, changed]) for keys, values in ((k, v), (new_k, new_v))),
        strict=True,
    )
    untouched = out[:, :10].clone()
    unsafe_P = merge(
        out, lse, rows, torch.stack(part).float().flatten(1, 2), torch.stack(part_lse).float().flatten(1, 2)
    )
    expected, expected_lse = plain(q, new_k, new_v)
    safe = ~unsafe_P.view(B, N - 10)
    assert torch.equal(out[:, :10], untouched)
    torch.testing.assert_close(out[:, 10:][safe].double(), expected[:, 10:][safe], atol=atol, rtol=0)
    torch.testing.assert_close(lse[:, 10:][safe].double(), expected_lse[:, 10:][safe], atol=atol, rtol=0)
    kept = 1 - torch.exp(part_lse[0] - plain(q, k, v)[1][:, 10:])
    assert torch.equal(~safe, (kept < REFRESH_BELOW).any(-1))
    assert bool(unsafe_P.any()) == (peak > 1)


def test_merge_refuses_rows_that_would_overflow() -> None:
    out, lse = torch.zeros(1, 2, 1, d), torch.zeros(1, 2, 1)
    rows = PackedRows.from_index(torch.arange(2)[None], 2)
    gain = torch.tensor([[-50.0, -50.0], [0.0, 200.0]])[..., None]
    assert merge(out, lse, rows, torch.randn(2, 2, 1, d), gain).tolist() == [False, True]
    assert torch.isfinite(out[0, 0]).all()


def run_exact(masks: list[Tensor], peak: float, dtype: torch.dtype = torch.float32) -> tuple[AttentionState, MacLedger]:
    """Random updates of the masked tokens, starting from a flush."""
    attention, state, ledger = FullAttention(H, d, d**-0.5), AttentionState(), MacLedger(B, 1.0)
    qkv = torch.randn(3, B, N, H, d)
    for t, mask_BN in enumerate([torch.ones(B, N, dtype=torch.bool), *masks]):
        qkv = torch.where(mask_BN[..., None, None], torch.randn(3, B, N, H, d), qkv)
        rows = AllRows(B, N, in_place=True) if t == 0 else PackedRows.from_mask(mask_BN)
        scaled = ((qkv[0] * peak).to(dtype), qkv[1].to(dtype), qkv[2].to(dtype))
        if t == 0 or mask_BN.any():
            ledger = MacLedger(B, 1.0)
            attention.update_exact(state, rows, tuple(rows.take(x) for x in scaled), ledger)
    return state, ledger


def error(state: AttentionState) -> float:
    """Of the sums against attention from the buffers, relative to the largest output."""
    expected, expected_lse = plain(state.q_BNHd, state.k_BNHd, state.v_BNHd)
    out = (state.out_BNHd.double() - expected).abs().max() / expected.abs().max()
    return float(torch.maximum(out, (state.lse_BNH.double() - expected_lse).abs().max()))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, N), st.integers(0, N)), min_size=1, max_size=6), st.integers(0, 99))
def test_exact_update_equals_dense_for_all_kinds_of_masks(counts: list[tuple[int, int]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rank = torch.rand(len(counts), B, N, generator=generator).argsort(-1)
    masks = [r < torch.tensor(c)[:, None] for r, c in zip(rank, counts, strict=True)]
    assert error(run_exact(masks, peak=1.0)[0]) < 1e-5


@pytest.mark.parametrize("peak", [1.0, 3.0, 8.0, 30.0])
def test_exact_update_stays_exact_over_peaked_attention(peak: float) -> None:
    masks = [torch.rand(B, N) < 0.15 for _ in range(300)]
    assert error(run_exact(masks, peak)[0]) < 1e-3


def test_exact_update_in_bfloat16_keeps_its_sums_in_float32() -> None:
    state, _ = run_exact([torch.rand(B, N) < 0.15 for _ in range(200)], 1.0, torch.bfloat16)
    assert state.q_BNHd.dtype == torch.bfloat16
    assert state.out_BNHd.dtype == state.lse_BNH.dtype == torch.float32
    assert error(state) < 2e-2


def test_refreshed_rows_are_counted() -> None:
    masks = [torch.rand(B, N) < 0.15 for _ in range(20)]
    counts = masks[-1].sum(1).double()
    expected = (counts * N + 2 * (N - counts) * counts) * H * d
    calm, peaked = (run_exact(masks, peak)[1].report().by_operation["qk"] for peak in (0.1, 30.0))
    assert torch.equal(calm, expected)
    assert (peaked > expected).all()


def test_many_tokens_are_computed_densely() -> None:
    mask_BN = torch.zeros(B, N, dtype=torch.bool)
    mask_BN[:, : N // 2] = True
    _, ledger = run_exact([mask_BN], 1.0)
    assert ledger.report().by_operation["qk"].tolist() == [N * N * H * d] * B
