"""What is fixed once the frame size is known: sizes, and what selections cost.

Shape suffixes: B streams, N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from eventful.families.backbone import Backbone
from eventful.families.block import Block
from eventful.linear.compiled import compiled_block
from eventful.linear.onednn import available, onednn_block
from eventful.macs.ledger import MacLedger
from eventful.options import Options
from policies.protocol import Granularity, Layout


@dataclass(frozen=True)
class FramePlan:
    """Sizes and costs for one frame size.

    Attributes:
        blocks: The transformer blocks for this size.
        layout: What policies are told.
        dense: MACs of the dense model's blocks per frame.
        embed: MACs of the patch embedding.
        head: MACs of everything after the blocks.
    """

    blocks: Sequence[Block]
    layout: Layout
    dense: float
    embed: float
    head: float


GATES_PER_BLOCK = 3


def make_plan(backbone: Backbone, options: Options, frame: Tensor) -> FramePlan:
    """Measures the model on one blank frame and works out what selections cost."""
    size = (frame.shape[-2], frame.shape[-1])
    grid = backbone.grid(size)
    tokens = backbone.prefix + grid[0] * grid[1]
    embed, head = backbone.measure(frame)
    blocks = backbone.blocks(grid)
    if options.compile is not None:
        blocks = [compiled_block(block, options.compile) for block in blocks]
    elif available():
        blocks = [onednn_block(block) for block in blocks]
    dense = _dense_macs(blocks, tokens)
    gates = gates_of(options.granularity, len(blocks))
    shares = _shares(blocks, options, dense, tokens, float(gates * tokens * backbone.dim))
    weights = _gate_weights(blocks, options, tokens)
    layout = Layout(
        tokens, backbone.prefix, grid, backbone.dim, gates, options.granularity, shares, weights, dense=dense
    )
    return FramePlan(blocks, layout, dense, embed, head)


def gates_of(granularity: Granularity, blocks: int) -> int:
    """Decisions per frame of a model with so many blocks."""
    return 1 if granularity == "frame" else GATES_PER_BLOCK * blocks


def _dense_macs(blocks: Sequence[Block], tokens: int) -> float:
    ledger = MacLedger(1, 1.0)
    for block in blocks:
        ledger.add("token_wise", tokens * (block.qkv_macs + block.proj_macs + block.mlp_macs))
        block.attention.count_dense(ledger, float(tokens), tokens)
    return float(ledger.report().total[0])


def _shares(
    blocks: Sequence[Block], options: Options, dense: float, tokens: int, gate_macs: float
) -> tuple[float, ...]:
    """Share of the dense MACs when every gate selects M tokens, for M = 0..N: one virtual stream per M."""
    counts = np.arange(tokens + 1, dtype=np.float64)
    ledger = MacLedger(len(counts), dense)
    ledger.add("gates", gate_macs)
    for block in blocks:
        ledger.add("token_wise", counts * (block.qkv_macs + block.proj_macs + block.mlp_macs))
        _count_attention(block, options, ledger, counts, tokens)
    return tuple(np.maximum.accumulate(ledger.report().share.numpy()).tolist())


def _gate_weights(blocks: Sequence[Block], options: Options, tokens: int) -> tuple[float, ...]:
    """How the cost of updating half of the tokens is spread over the gates; attention belongs to the qkv gates."""
    if options.granularity == "frame":
        return (1.0,)
    none_half_2 = np.array([0.0, tokens // 2])
    costs: list[float] = []
    for block in blocks:
        ledger = MacLedger(2, 1.0)
        _count_attention(block, options, ledger, none_half_2, tokens)
        none, half = ledger.report().total.tolist()
        attention = max(half - none, 0.0) / max(tokens // 2, 1)
        costs += [block.qkv_macs + attention, block.proj_macs, block.mlp_macs]
    return tuple(cost / sum(costs) for cost in costs)


def _count_attention(block: Block, options: Options, ledger: MacLedger, counts: np.ndarray, tokens: int) -> None:
    """What a block's attention costs for each count of updated tokens."""
    if options.granularity == "frame":
        block.attention.count_dense(ledger, counts, tokens)
    elif options.attention == "exact":
        block.attention.expect_exact(ledger, counts, tokens)
    elif options.attention == "paper":
        block.attention.expect_paper(ledger, counts, tokens)
    else:
        block.attention.count_dense(ledger, float(tokens), tokens)
