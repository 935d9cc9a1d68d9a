"""The compute column of the paper: MACs as the authors' published counters count them.

The main ledger (`eventful.macs.ledger`) counts the multiply-accumulates that this runtime does. The published figures
also contain additions and bias terms, count every gate's subtraction, the one over the whole N x N weights included,
and leave out patch embedding, final norm and heads. This module states that accounting explicitly, from the sizes of a
model and the number of tokens that each gate selected. In mode "paper" the two share their large items: `linear` is
the ledger's `token_wise`, `matmul` its `qk` + `av`, `einsum` its `bias`.

Per operation, for D channels, H heads, N tokens, M selected, N_k (pooled) keys, P of them changed:

- `linear`: inputs x outputs of each linear layer, for the tokens that it computes; `bias`: one per output.
- `matmul`: N N_k D for each of the two products; updated: (M N_k + N P) D for queries and keys, 2 N P D for values.
- `einsum`: relative positions, N D (k_h + k_w) for a key grid of k_h x k_w, from all queries at every frame.
- `add`: N D for each skip connection and for the position embedding; 2 H N N_k for relative positions.
- `gate`: N D for each token gate; N_k D + H N N_k for the gates of values and weights.
- `accumulator`: P D + 2 N D for each updated product of weights and values.

Windowed blocks are token-wise only and pad the grid to whole windows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True)
class Architecture:
    """The sizes that the accounting depends on.

    Attributes:
        grid: Numbers (rows, columns) of patch tokens.
        dim: Number D of channels.
        heads: Number H of attention heads.
        depth: Number of blocks.
        prefix: Number of class and register tokens.
        mlp_ratio: Number of hidden channels of the MLP over D.
        window: Side of the windows of windowed blocks, in tokens; 0 if there are none.
        windowed: Indices of the windowed blocks.
        relative: Whether attention has decomposed relative positions.
        pool: Side of the cells over which keys and values of global blocks are averaged, in tokens; 1 for none.
    """

    grid: tuple[int, int]
    dim: int
    heads: int
    depth: int
    prefix: int = 0
    mlp_ratio: int = 4
    window: int = 0
    windowed: frozenset[int] = frozenset()
    relative: bool = False
    pool: int = 1

    @property
    def tokens(self) -> int:
        """N."""
        return self.prefix + self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class Selected:
    """Numbers of tokens that the three gates of a block selected.

    Attributes:
        qkv: Number of tokens selected at the gate of queries, keys and values.
        proj: Number of tokens selected at the gate of the output projection.
        mlp: Number of tokens selected at the gate of the MLP.
        cells: Number of pooled keys with a selected token in them; None without pooling.
    """

    qkv: float
    proj: float
    mlp: float
    cells: float | None = None


def vitdet_b(size: int, pool: int = 1) -> Architecture:
    """ViTDet-B on square frames of `size` pixels: windows of 14 in all blocks but 2, 5, 8 and 11."""
    side, windowed = size // 16, frozenset(range(12)) - {2, 5, 8, 11}
    return Architecture((side, side), 768, 12, 12, window=14, windowed=windowed, relative=True, pool=pool)


def vivit_b_spatial(size: int) -> Architecture:
    """The spatial part of the factorised ViViT-B: a ViT-B/16 with class token, one frame per tubelet."""
    return Architecture((size // 16, size // 16), 768, 12, 12, prefix=1)


def flush_macs(architecture: Architecture) -> Counter[str]:
    """A dense frame, by operation."""
    N = architecture.tokens
    counts = _counts(add=N * architecture.dim)
    for index in range(architecture.depth):
        counts += _token_wise(architecture, Selected(N, N, N))
        counts += _positions_and_skips(architecture, index)
        counts += _counts(matmul=2 * _pairs(architecture, index) * architecture.dim)
    return counts


def steady_macs(
    architecture: Architecture, selected: Sequence[Selected], token_wise_only: bool = False
) -> Counter[str]:
    """A frame after the flush, by operation.

    Args:
        architecture: Architecture of the model.
        selected: Numbers of selected tokens, for each block.
        token_wise_only: Whether attention is computed densely, as it always is in windowed blocks.

    Raises:
        ValueError: If there is not one selection for each block, or pooled keys lack their number of cells.
    """
    if len(selected) != architecture.depth:
        raise ValueError(f"there are {architecture.depth} blocks, got selections for {len(selected)}")
    N, D = architecture.tokens, architecture.dim
    counts = _counts(add=N * D)
    for index, block in enumerate(selected):
        counts += _token_wise(architecture, block)
        counts += _positions_and_skips(architecture, index)
        counts += _counts(gate=3 * N * D)
        if token_wise_only or index in architecture.windowed:
            counts += _counts(matmul=2 * _pairs(architecture, index) * D)
        else:
            counts += _updated_products(architecture, block)
    return counts


def _token_wise(architecture: Architecture, block: Selected) -> Counter[str]:
    D, ratio = architecture.dim, architecture.mlp_ratio
    return _counts(
        linear=(3 * block.qkv + block.proj + 2 * ratio * block.mlp) * D * D,
        bias=(3 * block.qkv + block.proj + (ratio + 1) * block.mlp) * D,
    )


def _positions_and_skips(architecture: Architecture, index: int) -> Counter[str]:
    """Additions outside of the gates, and relative positions, which are computed for all queries at every frame."""
    D = architecture.dim
    counts = _counts(add=2 * architecture.tokens * D)
    if index in architecture.windowed and any(side % architecture.window for side in architecture.grid):
        counts += _counts(bias=3 * D)
    if architecture.relative:
        rows, _, key_grid = _attention_size(architecture, index)
        counts += _counts(einsum=rows * D * sum(key_grid), add=2 * architecture.heads * _pairs(architecture, index))
    return counts


def _updated_products(architecture: Architecture, block: Selected) -> Counter[str]:
    N, keys, _ = _attention_size(architecture, index=-1)
    if block.cells is None and architecture.pool > 1:
        raise ValueError("with pooled keys, each selection needs the number of cells that it touches")
    changed = block.qkv if block.cells is None else block.cells
    D = architecture.dim
    return _counts(
        matmul=(block.qkv * keys + N * changed + 2 * N * changed) * D,
        gate=keys * D + architecture.heads * N * keys,
        accumulator=changed * D + 2 * N * D,
    )


def _attention_size(architecture: Architecture, index: int) -> tuple[int, int, tuple[int, int]]:
    """Queries, keys that each of them sees, and the grid of these keys."""
    height, width = architecture.grid
    if index in architecture.windowed:
        side = architecture.window
        queries = ceil(height / side) * ceil(width / side) * side * side
        return queries, side * side, (side, side)
    key_grid = (height // architecture.pool, width // architecture.pool)
    return architecture.tokens, architecture.prefix + key_grid[0] * key_grid[1], key_grid


def _pairs(architecture: Architecture, index: int) -> int:
    queries, keys, _ = _attention_size(architecture, index)
    return queries * keys


def _counts(**amounts: float) -> Counter[str]:
    return Counter(amounts)
