"""Attention in windows where changes come in patches: groups of windows that hold about as many queries."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from eventful.attention.cells import Cells
from eventful.attention.relative import RelativePositions
from eventful.attention.windowed import _LEAST, WindowedAttention, _by_size
from eventful.rows import PackedRows
from eventful.state import AttentionState

SIDE, GRID, H, d = 7, (26, 17), 2, 8
N = GRID[0] * GRID[1]


@given(st.lists(st.integers(0, 300), min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_every_window_that_holds_queries_is_in_one_group_with_room_for_them(held: list[int]) -> None:
    held_T = torch.tensor(held)
    groups = list(_by_size(held_T))
    assert torch.equal(sum((among.int() for _, among in groups), torch.zeros_like(held_T)), (held_T > 0).long())
    for most, among in groups:
        assert bool((held_T[among] <= most).all()) and most <= held_T.max()
        assert most <= _LEAST or bool((2 * held_T[among] > most).all())


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("spread", [0, 1, 60])
def test_rows_are_those_of_dense_attention(positions: bool, spread: int) -> None:
    """A full window, half of another one, and `spread` single tokens, in two of three streams."""
    torch.manual_seed(0)
    axes = tuple(torch.randn(SIDE, SIDE, d) for _ in range(2))
    relative = RelativePositions(lambda: (axes[0], axes[1]), (SIDE, SIDE), (SIDE, SIDE)) if positions else None
    pad = torch.randn(3, SIDE * SIDE if positions else 1, H, d)
    layer = WindowedAttention(H, d, d**-0.5, Cells(GRID, SIDE), lambda: (pad[0], pad[1], pad[2]), relative)
    q, k, v = torch.randn(3, 3, N, H, d)
    mask = torch.zeros(3, *GRID, dtype=torch.bool)
    mask[0, :SIDE, :SIDE] = mask[2, -3:, -5:] = mask[2, :4, SIDE : 2 * SIDE] = True
    mask.view(3, N)[2, torch.randperm(N)[:spread]] = True
    rows = PackedRows.from_mask(mask.view(3, N))
    with torch.no_grad():
        out = layer.rows(rows.take(q), rows, AttentionState(k_BNHd=k, v_BNHd=v))
        torch.testing.assert_close(out, rows.take(layer.dense(q, k, v)), atol=1e-5, rtol=1e-5)
