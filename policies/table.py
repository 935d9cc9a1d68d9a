"""Thresholds for every gate and budget, interpolated: the calibrated heuristic in one table.

A calibration run (`train.calibration`) finds, for each of K budgets, the error norm per gate at which the realised
share of dense MACs equals the budget. Between budgets, log h is linear in log budget.

Shape suffixes: B streams, K budgets, G gates.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ThresholdTable(nn.Module):
    """log h for G gates at K budgets.

    Args:
        budgets: K shares of the dense MACs, strictly ascending, in (0, 1].
        gates: Number G of gates.

    Raises:
        ValueError: If the budgets are not ascending or out of range.
    """

    log_threshold_KG: Tensor
    log_budget_K: Tensor

    def __init__(self, budgets: Sequence[float], gates: int) -> None:
        super().__init__()
        ascending = all(a < b for a, b in itertools.pairwise(budgets))
        if not budgets or not ascending or not 0 < budgets[0] <= budgets[-1] <= 1:
            raise ValueError(f"budgets must ascend strictly within (0, 1], got {list(budgets)}")
        self.register_buffer("log_budget_K", torch.tensor(budgets, dtype=torch.float32).log())
        self.register_buffer("log_threshold_KG", torch.zeros(len(budgets), gates))

    def forward(self, gate: int, budget_B: Tensor) -> Tensor:
        """log h of a gate for each stream's budget (B,); beyond the table, the nearest segment goes on."""
        if len(self.log_budget_K) == 1:
            return self.log_threshold_KG[0, gate].expand_as(budget_B)
        upper_B, share_B = self._segments(budget_B)
        y0_B, y1_B = self.log_threshold_KG[upper_B - 1, gate], self.log_threshold_KG[upper_B, gate]
        return y0_B + (y1_B - y0_B) * share_B

    @property
    def gates(self) -> int:
        """G."""
        return self.log_threshold_KG.shape[1]

    @property
    def budgets(self) -> list[float]:
        """The K budgets, rounded to six decimals."""
        return [round(budget, 6) for budget in self.log_budget_K.exp().tolist()]

    @torch.no_grad()
    def nudge(self, budget_B: Tensor, amount_B: Tensor) -> None:
        """Adds amounts to log h of all gates, each at the two knots beside its budget, the nearer one more."""
        budget_B, amount_B = budget_B.to(self.log_budget_K), amount_B.to(self.log_budget_K)
        if len(self.log_budget_K) == 1:
            self.log_threshold_KG += amount_B.sum()
            return
        upper_B, share_B = self._segments(budget_B)
        share_B = share_B.clamp(0, 1)
        change_K = torch.zeros_like(self.log_budget_K)
        change_K.index_add_(0, upper_B - 1, amount_B * (1 - share_B))
        change_K.index_add_(0, upper_B, amount_B * share_B)
        self.log_threshold_KG += change_K[:, None]

    def _segments(self, budget_B: Tensor) -> tuple[Tensor, Tensor]:
        """For each budget, the knot above it, and how far it lies between the knot below and that one."""
        x_B = budget_B.log()
        # A search, in operations that every runtime has.
        upper_B = (self.log_budget_K < x_B[..., None]).sum(-1).clamp(1, len(self.log_budget_K) - 1)
        x0_B, x1_B = self.log_budget_K[upper_B - 1], self.log_budget_K[upper_B]
        return upper_B, (x_B - x0_B) / (x1_B - x0_B)
