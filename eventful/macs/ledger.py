"""Multiply-accumulates of one frame, itemised by operation, for every stream.

The code that does the work states its cost here at the moment it does it, so that data-dependent work (ragged
selections, touched windows, refreshed rows) is counted as it happened. Amounts may be tensors that carry gradients:
the same formulas are then the differentiable cost of a masked rollout.

Operations: `token_wise` (linear layers of the blocks), `qk` and `av` (attention products), `merge` (bringing attention
outputs up to date), `bias` (relative positions), `gates` (error norms), `policy`; and, the same for every policy and
for the dense model, `embed` (patch embedding) and `head` (everything after the blocks). Totals and ratios follow the
paper's accounting: what is made eventful, its overheads included, without `embed` and `head`.

Shape suffixes: B streams, N tokens, M selected tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from eventful.rows import Counts

Amount = float | Counts

FIXED = frozenset({"embed", "head"})
"""Operations that no policy can save."""


@dataclass(frozen=True)
class FrameMacs:
    """MACs of one frame.

    Attributes:
        total: MACs of the blocks, gates and policy, per stream (B,), float64.
        dense_B: MACs of the dense model's blocks, per stream (B,), float64.
        by_operation: MACs of each operation, `embed` and `head` included, per stream (B,).
    """

    total: Tensor
    dense_B: Tensor
    by_operation: dict[str, Tensor]

    @property
    def dense(self) -> float:
        """MACs of the dense model's blocks on a frame of one stream."""
        return float(self.dense_B[0])

    @property
    def share(self) -> Tensor:
        """Share of the dense MACs (B,): what budgets are about."""
        return self.total / self.dense_B

    ratio = share
    """The share by the name that version 0.1 gave it."""

    @property
    def overall_share(self) -> Tensor:
        """`share` with patch embedding and head counted on both sides (B,)."""
        fixed = sum(amount for name, amount in self.by_operation.items() if name in FIXED)
        return (self.total + fixed) / (self.dense_B + fixed)


class MacLedger:
    """Collects the MACs of a frame of B streams.

    Args:
        streams: Number B of streams.
        dense: MACs of the dense model per frame and stream.
    """

    def __init__(self, streams: int, dense: float) -> None:
        self._streams, self._dense = streams, dense
        self._amounts: dict[str, Amount] = {}

    def add(self, operation: str, amount: Amount) -> None:
        """Adds MACs, a number for all streams alike or one for each."""
        self._amounts[operation] = self._amounts.get(operation, 0.0) + amount

    def report(self) -> FrameMacs:
        """The sums. Amounts that carry gradients keep them."""
        by_operation = {name: self._per_stream(amount) for name, amount in self._amounts.items()}
        dense_B = torch.full((self._streams,), self._dense, dtype=torch.float64)
        device = next((x.device for x in by_operation.values() if x.device.type != "cpu"), dense_B.device)
        counted = (x.to(device) for name, x in by_operation.items() if name not in FIXED)
        total = sum(counted, torch.zeros_like(dense_B, device=device))
        return FrameMacs(total, dense_B.to(device), by_operation)

    def _per_stream(self, amount: Amount) -> Tensor:
        if isinstance(amount, Tensor):
            return amount.double().expand(self._streams)
        return torch.from_numpy(np.full(self._streams, amount, dtype=np.float64))


def linear_macs(*modules: nn.Module | None) -> float:
    """MACs per token of the linear layers in token-wise modules: `nn.Linear`, quantised ones, adapters around one."""
    total = 0.0
    for module in modules:
        sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
        if module is None:
            continue
        if isinstance(sizes[0], int) and isinstance(sizes[1], int):
            total += sizes[0] * sizes[1]
        else:
            total += linear_macs(*module.children())
    return total
