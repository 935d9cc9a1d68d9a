"""A grid of tokens cut into square cells: the windows of windowed attention, the 2x2 cells of key pooling.

Cells at the right and bottom edge may be incomplete; their missing places are padding.

Shape suffixes: B streams, N tokens, C cells of one stream, S places in a cell, P selected tokens of all streams.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from eventful.attention.per_device import PerDevice
from eventful.rows import AllRows, MaskedRows, PackedRows, Rows


class Cells:
    """Which token lies where in which cell.

    Args:
        grid: (rows, columns) of tokens.
        side: Tokens along one side of a cell.

    Attributes:
        tokens: N.
        side: Tokens along one side of a cell.
        grid: (rows, columns) of cells.
        cells: C.
        places: S = side * side.
        padded: Whether any cell is incomplete.
    """

    def __init__(self, grid: tuple[int, int], side: int) -> None:
        height, width = grid
        self.tokens, self.side, self.places = height * width, side, side * side
        self.grid = (-(-height // side), -(-width // side))
        self.cells = self.grid[0] * self.grid[1]
        self.padded = self.cells * self.places != self.tokens
        y_N, x_N = (axis.reshape(-1) for axis in np.mgrid[:height, :width])
        cell_N = (y_N // side) * self.grid[1] + x_N // side
        place_N = (y_N % side) * side + x_N % side
        token_CS = np.full((self.cells, self.places), -1)
        token_CS[cell_N, place_N] = np.arange(self.tokens)
        self._filled_C = (token_CS >= 0).sum(1)
        self._cell = PerDevice(lambda: torch.from_numpy(cell_N))
        self._place = PerDevice(lambda: torch.from_numpy(place_N))
        self._slot = PerDevice(lambda: torch.from_numpy(cell_N * self.places + place_N))
        self._token = PerDevice(lambda: torch.from_numpy(token_CS))

    def cell_N(self, device: torch.device) -> Tensor:
        """The cell of each token (N,)."""
        return self._cell.on(device)

    def place_N(self, device: torch.device) -> Tensor:
        """The place of each token in its cell (N,), 0 to S - 1."""
        return self._place.on(device)

    def slot_N(self, device: torch.device) -> Tensor:
        """cell * S + place of each token (N,)."""
        return self._slot.on(device)

    def token_CS(self, device: torch.device) -> Tensor:
        """The token at each place of each cell (C, S), -1 for padding."""
        return self._token.on(device)

    def touched(self, rows: PackedRows) -> Tensor:
        """Flat indices b * C + c, ascending, of the cells that contain one of the rows (T,)."""
        device = rows.flat_P.device
        touched = torch.zeros(rows.streams * self.cells, dtype=torch.bool, device=device)
        touched[self.flat_cell_P(rows)] = True
        return touched.nonzero().squeeze(1)

    def flat_cell_P(self, rows: PackedRows) -> Tensor:
        """b * C + c for each packed row (P,)."""
        stream_P = rows.flat_P.div(self.tokens, rounding_mode="floor")
        return stream_P * self.cells + self.cell_N(rows.flat_P.device)[rows.flat_P % self.tokens]

    def rows(self, rows: Rows) -> Rows:
        """The cells that contain one of the rows, themselves as rows of a table of C cells.

        For masked rows the mask of the cells carries gradients: a cell is touched with 1 - prod(1 - m), which is
        exact for hard masks.
        """
        if isinstance(rows, MaskedRows):
            mask_BN = rows.mask_BN.double()
            index_BN = self.cell_N(mask_BN.device).expand_as(mask_BN)
            ones_BC = mask_BN.new_ones(mask_BN.shape[0], self.cells)
            mask_BC = 1 - ones_BC.scatter_reduce(1, index_BN, 1 - mask_BN, "prod")
            return MaskedRows(mask_BC > 0.5 if rows.mask_BN.dtype == torch.bool else mask_BC)
        if not isinstance(rows, PackedRows):
            return AllRows(rows.streams, self.cells, in_place=False)
        touched_T = self.touched(rows)
        stream_T = touched_T.div(self.cells, rounding_mode="floor")
        return PackedRows(touched_T, torch.bincount(stream_T, minlength=rows.streams).tolist(), self.cells)

    def expect(self, counts: np.ndarray) -> np.ndarray:
        """Expected number of touched cells when `counts` tokens are drawn at random, for each entry."""
        drawn_M1 = np.asarray(counts, dtype=np.float64)[:, None]
        missed = _log_choose(self.tokens - self._filled_C, drawn_M1) - _log_choose(self.tokens, drawn_M1)
        return (1 - np.exp(missed)).sum(1)


def _log_choose(n: np.ndarray | int, k: np.ndarray) -> np.ndarray:
    """log of n over k; -inf where k > n."""
    top, low = np.broadcast_arrays(np.asarray(n, dtype=np.float64), k)
    fits = low <= top
    rest = np.where(fits, top - low, 0.0)
    value = sum(sign * torch.lgamma(torch.from_numpy(x + 1.0)).numpy() for sign, x in ((1, top), (-1, low), (-1, rest)))
    return np.where(fits, value, -np.inf)
