"""The exact update on its own: dense on the buffers after thousands of random updates, for every kind of attention."""

from __future__ import annotations

import resource
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eventful.attention.cells import Cells
from eventful.attention.full import FullAttention
from eventful.attention.grid import GridAttention
from eventful.attention.pooling import KeyPooling
from eventful.attention.protocol import AttentionLayer
from eventful.attention.relative import RelativePositions, relative_array
from eventful.attention.windowed import WindowedAttention
from eventful.macs.ledger import MacLedger
from eventful.rows import AllRows, MaskedRows, PackedRows
from eventful.state import AttentionState

H, d = 2, 16
GRID = (7, 9)
N = GRID[0] * GRID[1]


def arrays(grid: tuple[int, int], pool: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    tables = [torch.randn(2 * side - 1, d, generator=generator) * 0.3 for side in grid]
    made = [relative_array(table, side, "array", pool) for table, side in zip(tables, grid, strict=True)]
    return made[0], made[1]


def grid_attention(positions: bool, pool: int) -> GridAttention:
    pooling = KeyPooling(GRID, pool) if pool > 1 else None
    keys = GRID if pooling is None else pooling.cells.grid
    fixed = arrays(GRID, pool)
    relative = RelativePositions(lambda: fixed, GRID, keys) if positions else None
    return GridAttention(H, d, d**-0.5, N, relative, pooling)


def windowed() -> WindowedAttention:
    fixed, pad = arrays((4, 4)), torch.randn(3, 16, H, d, generator=torch.Generator().manual_seed(6))
    relative = RelativePositions(lambda: fixed, (4, 4), (4, 4))
    return WindowedAttention(H, d, d**-0.5, Cells(GRID, 4), lambda: (pad[0], pad[1], pad[2]), relative)


LAYERS: dict[str, Callable[[], AttentionLayer]] = {
    "global": lambda: FullAttention(H, d, d**-0.5),
    "relative positions": lambda: grid_attention(True, 1),
    "pooled keys": lambda: grid_attention(False, 2),
    "relative positions, pooled keys": lambda: grid_attention(True, 2),
    "windows": windowed,
}


class Stream:
    """Random updates of a layer's buffers."""

    def __init__(self, layer: AttentionLayer, sharpness: float, streams: int = 1, seed: int = 0) -> None:
        self.layer, self.sharpness, self.streams = layer, sharpness, streams
        self.generator = torch.Generator().manual_seed(seed)
        self.state = AttentionState()
        rows = AllRows(streams, N, in_place=True)
        layer.update_exact(self.state, rows, self._new((streams, N)), MacLedger(streams, 1.0))

    def _new(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = torch.randn(3, *shape, H, d, generator=self.generator)
        return q * self.sharpness, k, v

    def update(self, mask_BN: Tensor) -> None:
        rows = PackedRows.from_mask(mask_BN)
        new = self._new((int(mask_BN.sum()),))
        self.layer.update_exact(self.state, rows, new, MacLedger(self.streams, 1.0))

    def random_mask(self, share: float) -> Tensor:
        return torch.rand(self.streams, N, generator=self.generator) < share

    def error(self) -> float:
        """Relative error of the outputs against dense attention from the same buffers."""
        buffers = [self.state.q_BNHd, self.state.k_BNHd, self.state.v_BNHd]
        with torch.no_grad():
            dense = self.layer.dense(*buffers)  # type: ignore[arg-type]
        assert self.state.out_BNHd is not None
        return float((self.state.out_BNHd - dense).norm() / dense.norm())


def worst_errors(name: str, sharpness: float, frames: int) -> list[float]:
    """The worst error in each tenth of the run; errors are looked at every 20 frames."""
    stream, found = Stream(LAYERS[name](), sharpness), []
    for frame in range(frames):
        stream.update(stream.random_mask(0.1))
        if frame % 20 == 19:
            found.append(stream.error())
    tenth = len(found) // 10
    return [max(found[i * tenth : (i + 1) * tenth]) for i in range(10)]


@pytest.mark.parametrize("sharpness", [1.0, 8.0])
@pytest.mark.parametrize("name", LAYERS)
def test_a_thousand_frames_do_not_drift(name: str, sharpness: float) -> None:
    errors = worst_errors(name, sharpness, 1000)
    assert max(errors) < 1e-3, errors
    assert max(errors[5:]) < 10 * max(max(errors[:5]), 1e-6), errors


@pytest.mark.slow
@pytest.mark.parametrize("sharpness", [1.0, 8.0])
@pytest.mark.parametrize("name", LAYERS)
def test_ten_thousand_frames_do_not_drift_and_hold_no_memory(name: str, sharpness: float) -> None:
    worst_errors(name, sharpness, 200)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    errors = worst_errors(name, sharpness, 10_000)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert max(errors) < 1e-3, errors
    assert max(errors[5:]) < 10 * max(max(errors[:5]), 1e-6), errors
    assert grown < 20_000, f"{grown} kB more than at the beginning"


def test_the_state_keeps_its_size() -> None:
    for make in LAYERS.values():
        stream = Stream(make(), 1.0)
        sizes = [tensor.numel() for tensor in vars(stream.state).values() if tensor is not None]
        for _ in range(50):
            stream.update(stream.random_mask(0.3))
        assert sizes == [tensor.numel() for tensor in vars(stream.state).values() if tensor is not None]


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(list(LAYERS)),
    streams=st.integers(1, 3),
    shares=st.lists(st.sampled_from([0.0, 1 / N, 0.05, 0.3, 0.6, 1.0]), min_size=1, max_size=5),
    sharpness=st.sampled_from([0.1, 1.0, 4.0]),
    seed=st.integers(0, 10_000),
)
def test_any_updates_give_dense_attention_on_the_buffers(
    name: str, streams: int, shares: list[float], sharpness: float, seed: int
) -> None:
    stream = Stream(LAYERS[name](), sharpness, streams, seed)
    for share in shares:
        stream.update(stream.random_mask(share))
        assert stream.error() < 2e-4


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(list(LAYERS)),
    share=st.sampled_from([0.0, 1 / N, 0.1, 0.5, 1.0]),
    streams=st.integers(1, 3),
    seed=st.integers(0, 10_000),
)
def test_rows_of_attention_are_rows_of_dense_attention(name: str, share: float, streams: int, seed: int) -> None:
    stream = Stream(LAYERS[name](), 1.0, streams, seed)
    mask_BN = stream.random_mask(share)
    if not mask_BN.any():
        mask_BN[0, 0] = True
    rows = PackedRows.from_mask(mask_BN)
    q = torch.randn(int(mask_BN.sum()), H, d, generator=stream.generator)
    whole = rows.put(torch.zeros(streams, N, H, d), q)
    out = stream.layer.rows(q, rows, stream.state)
    dense = stream.layer.dense(whole, stream.state.k_BNHd, stream.state.v_BNHd)  # type: ignore[arg-type]
    torch.testing.assert_close(out, rows.take(dense), atol=1e-5, rtol=1e-4)


def test_a_row_that_loses_its_mass_is_computed_afresh() -> None:
    """Key 0 has all the mass of every row, and moves away: what is left cancels to nothing in float32."""
    for name in ("global", "relative positions", "pooled keys"):
        layer, state = LAYERS[name](), AttentionState()
        q, k, v = torch.randn(3, 1, N, H, d, generator=torch.Generator().manual_seed(1))
        q[..., 0], k[..., 0] = 1.0, 0.0
        k[:, 0, :, 0] = 40 / d**-0.5 * (4 if "pooled" in name else 1)
        layer.update_exact(state, AllRows(1, N, in_place=True), (q, k, v), MacLedger(1, 1.0))
        rows = PackedRows.from_index(torch.tensor([[0]]), N)
        moved = k[:, 0].clone()
        moved[..., 0] = -40.0
        ledger = MacLedger(1, 1.0)
        layer.update_exact(state, rows, (q[:, 0], moved, v[:, 0]), ledger)
        dense = layer.dense(state.q_BNHd, state.k_BNHd, state.v_BNHd)  # type: ignore[arg-type]
        assert state.out_BNHd is not None
        torch.testing.assert_close(state.out_BNHd, dense, atol=1e-5, rtol=1e-4)


def test_only_touched_windows_are_paid_for() -> None:
    stream, windows = Stream(windowed(), 1.0), Cells(GRID, 4)
    whole = MacLedger(1, 1.0)
    stream.layer.count_dense(whole, float(N), N)
    share_of_window = float(whole.report().by_operation["qk"][0]) / windows.cells
    for tokens, touched in (([0], 1), ([0, 1, 9], 1), ([0, 62], 2), ([0, 8, 54, 62, 31], 5)):
        rows = PackedRows.from_index(torch.tensor([tokens]), N)
        ledger = MacLedger(1, 1.0)
        stream.layer.update_exact(stream.state, rows, stream._new((len(tokens),)), ledger)
        assert float(ledger.report().by_operation["qk"][0]) == touched * share_of_window
        mask_BN = rows.mask().float().requires_grad_()
        soft = windows.rows(MaskedRows(mask_BN)).counts
        assert isinstance(soft, Tensor) and float(soft[0].detach()) == touched
        soft.sum().backward()
        assert mask_BN.grad is not None


def test_the_expected_number_of_touched_cells_is_that_of_random_masks() -> None:
    import numpy as np

    cells, generator = Cells(GRID, 2), torch.Generator().manual_seed(0)
    counts = np.array([0.0, 1.0, 5.0, 20.0, float(N)])
    expected = cells.expect(counts)
    for count, value in zip(counts, expected, strict=True):
        found = []
        for _ in range(300):
            mask = torch.rand(1, N, generator=generator).argsort(1).argsort(1) < count
            found.append(float(cells.rows(PackedRows.from_mask(mask)).counts[0]))
        assert sum(found) / 300 == pytest.approx(value, rel=0.03)
