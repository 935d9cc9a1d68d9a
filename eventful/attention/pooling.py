"""Average pooling of keys and values: queries of all tokens meet one key for each 2x2 cell of tokens.

Eventful Transformers, section 5.1 (ViTDet with pooled k and v). A pooled key changes when a token of its cell does.
The unpooled k and v stay in the buffers, so that pooled ones never drift.

Shape suffixes: B streams, N tokens, K cells (keys), S tokens in a cell, T some of the cells, H heads, d channels of a
head.
"""

from __future__ import annotations

from torch import Tensor

from eventful.attention.cells import Cells


class KeyPooling:
    """Means over square cells; incomplete cells at the edge are means over the tokens that they have.

    Args:
        grid: (rows, columns) of tokens; there are no prefix tokens.
        side: Tokens along one side of a cell.

    Attributes:
        cells: How the grid falls into cells.
    """

    def __init__(self, grid: tuple[int, int], side: int) -> None:
        self.cells = Cells(grid, side)

    def all(self, x_BNHd: Tensor) -> Tensor:
        """All cells (B, K, H, d); carries gradients."""
        return self._mean(x_BNHd, self.cells.token_CS(x_BNHd.device))

    def some(self, x_BNHd: Tensor, cell_T: Tensor) -> Tensor:
        """Some of the cells (B, T, H, d)."""
        return self._mean(x_BNHd, self.cells.token_CS(x_BNHd.device)[cell_T])

    def _mean(self, x_BNHd: Tensor, token_TS: Tensor) -> Tensor:
        x_BTSHd = x_BNHd[:, token_TS.clamp(min=0)]
        if not self.cells.padded:
            return x_BTSHd.mean(2)
        real_TS = (token_TS >= 0).to(x_BNHd.dtype)
        weight_TS = real_TS / real_TS.sum(1, keepdim=True)
        return (x_BTSHd * weight_TS[..., None, None]).sum(2)
