"""What is fixed once the frame size is known: sizes, and what selections cost.

Shape suffixes: B streams, N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from eventful.families import adapt
from eventful.families.backbone import Backbone
from eventful.families.block import Block
from eventful.linear.compiled import compiled_block
from eventful.linear.onednn import onednn_block
from eventful.macs.ledger import MacLedger
from eventful.options import Options
from policies.protocol import BLOCK_GATES, Granularity, Layout


@dataclass(frozen=True)
class FramePlan:
    """Sizes and costs for one frame size.

    Attributes:
        blocks: The transformer blocks for this size.
        layout: What policies are told.
        dense: MACs of the dense model's blocks per frame.
        embed: MACs of the patch embedding.
        head: MACs of everything after the blocks.
        blank_ND: Tokens of a blank frame, what the embedding adds to each place; None without motion compensation.
    """

    blocks: Sequence[Block]
    layout: Layout
    dense: float
    embed: float
    head: float
    blank_ND: Tensor | None


KEPT_PLANS = 32
"""Frame sizes whose plans are kept."""


def make_plan(backbone: Backbone, options: Options, frame: Tensor) -> FramePlan:
    """Measures the model on one blank frame and works out what selections cost."""
    size = (frame.shape[-2], frame.shape[-1])
    grid = backbone.grid(size)
    tokens = backbone.prefix + grid[0] * grid[1]
    embed, head, blank_ND = backbone.measure(frame)
    blocks = backbone.blocks(grid)
    if options.compile is not None:
        blocks = [compiled_block(block, options.compile) for block in blocks]
    else:
        blocks = [onednn_block(block) for block in blocks]
    dense = _dense_macs(blocks, tokens)
    gates = gates_of(options.granularity, len(blocks))
    shares = _shares(blocks, options, dense, tokens, float(gates * tokens * backbone.dim))
    weights = _gate_weights(blocks, options, tokens)
    layout = Layout(
        tokens,
        backbone.prefix,
        grid,
        backbone.dim,
        gates,
        options.granularity,
        shares,
        weights,
        dense,
        ordinary_prefix=options.prefix == "ordinary",
    )
    return FramePlan(blocks, layout, dense, embed, head, blank_ND if options.motion_compensation else None)


class Plans:
    """A model taken apart, and its plans by frame size: made anew where the model has other layers than it had.

    Args:
        vit: The model.
        options: How it runs.

    Attributes:
        structure: Counts up whenever layers have been replaced by others; copies of a model start with the same number.

    Raises:
        UnsupportedModel: Naming the part of the model that is in the way.
    """

    def __init__(self, vit: nn.Module, options: Options) -> None:
        self._options = options
        self.structure = 0
        self._signature: tuple[object, ...] = ()
        self._backbone: Backbone | None = None
        self._plans: dict[tuple[int, int], FramePlan] = {}
        self.backbone(vit)

    def __getstate__(self) -> dict[str, Any]:
        # A copied model holds other layers: what was made from these must not go along.
        return self.__dict__ | {"_backbone": None, "_plans": {}}

    def backbone(self, vit: nn.Module, thorough: bool = False) -> Backbone:
        """The model's parts as they are now.

        Args:
            vit: The model.
            thorough: Whether to look for replaced layers of any kind, not for blocks and attention alone.

        Raises:
            UnsupportedModel: If a part was replaced by one that is not supported, naming it.
        """
        known = self._backbone
        if known is not None and known.is_current(vit) and not (thorough and not known.is_unchanged()):
            return known
        made = adapt(vit)
        signature = made.signature()
        if known is not None or signature != self._signature:
            self.structure += 1
        self._backbone, self._signature, self._plans = made, signature, {}
        return made

    def plan(self, backbone: Backbone, frame: Tensor) -> FramePlan:
        """The plan for frames like this one (B, 3, H, W), of the parts that `backbone` has just returned."""
        size = (frame.shape[-2], frame.shape[-1])
        if size not in self._plans:
            if len(self._plans) >= KEPT_PLANS:
                self._plans.clear()
            self._plans[size] = make_plan(backbone, self._options, frame)
        return self._plans[size]


def gates_of(granularity: Granularity, blocks: int) -> int:
    """Decisions per frame of a model with so many blocks."""
    return 1 if granularity == "frame" else len(BLOCK_GATES) * blocks


def _dense_macs(blocks: Sequence[Block], tokens: int) -> float:
    ledger = MacLedger(1, 1.0)
    for block in blocks:
        ledger.add("token_wise", tokens * block.macs)
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
        ledger.add("token_wise", counts * block.macs)
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
