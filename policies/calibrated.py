"""Calibrated heuristics: the honest opponents of a learned policy.

The paper uses one r or one h for all gates, though error norms differ by gate. `CalibratedThreshold` has a threshold
for each gate and budget; `GlobalTopR` spreads one count over all gates by normalised errors. A policy that beats only
the uniform rules has learned no more than a calibration.

Shape suffixes: B streams, N tokens, G gates.
"""

from __future__ import annotations

import torch
from torch import nn

from policies.budget import BudgetedPolicy
from policies.protocol import Budget, GateObservation, Granularity, Policy, PolicyMismatch, Selection
from policies.table import ThresholdTable


class CalibratedThreshold(nn.Module, BudgetedPolicy):
    """All tokens whose error norm exceeds the threshold of their gate at the asked budget.

    Args:
        table: Thresholds, filled by `train.calibration.calibrate`.
        budget: Target share of the dense MACs, one for all streams or one for each (B,).
    """

    def __init__(self, table: ThresholdTable, budget: Budget = 0.1) -> None:
        super().__init__()
        self.table = table
        self.budget = budget

    def select(self, observation: GateObservation) -> Selection:
        """See `Policy.select`."""
        log_h_B = self.table(observation.gate, self.budget_per_stream(observation))
        return Selection.where(observation.error_BN > log_h_B.exp()[:, None], observation)

    def check(self, gates: int, dim: int, granularity: Granularity) -> None:
        """See `Policy.check`."""
        if gates != self.table.gates:
            raise PolicyMismatch(f"the thresholds are for {self.table.gates} gates, the model has {gates}")


class GlobalTopR(Policy):
    """About r * G updates per frame, spread over the G gates by errors relative to each gate's usual size.

    At a gate, tokens are selected whose error exceeds tau times the running mean error of that gate; tau follows the
    number of tokens selected in the preceding frame, because later gates cannot be seen when earlier ones decide.
    With one gate per frame this is top-r exactly.

    Args:
        r: Mean number of tokens per gate and stream.
        gain: Step of log tau per frame, as a share of the relative excess of the realised over the asked number.
        momentum: Weight of the past in the running mean errors, in [0, 1).
    """

    def __init__(self, r: int, gain: float = 0.3, momentum: float = 0.9) -> None:
        if r < 1:
            raise ValueError(f"r must be at least 1, got {r}")
        self.r, self.gain, self.momentum = r, gain, momentum

    def select(self, observation: GateObservation) -> Selection:
        """See `Policy.select`."""
        layout = observation.layout
        if layout.gates == 1:
            return Selection.top(observation.error_BN, self.r, layout.prefix)
        memory = observation.memory
        error_BN = observation.error_BN
        mean_B = error_BN.mean(1)
        key = f"mean_error_{observation.gate}"
        if key in memory:
            known_B = memory[key]
            both_B = torch.lerp(mean_B, known_B, self.momentum)
            mean_B = torch.where((mean_B > 0) & (known_B > 0), both_B, torch.maximum(mean_B, known_B))
        memory[key] = mean_B
        if observation.gate == 0:
            self._follow(observation)
        relative_BN = error_BN / mean_B[:, None].clamp(min=torch.finfo(mean_B.dtype).tiny)
        selection = Selection.where(relative_BN > memory["log_tau"].exp()[:, None], observation)
        memory["selected"] = memory["selected"] + selection.as_mask(layout.tokens).sum(1)
        return selection

    def _follow(self, observation: GateObservation) -> None:
        """Moves log tau towards the asked number, once per frame."""
        memory, zero_B = observation.memory, observation.error_BN.new_zeros(observation.streams)
        if "log_tau" in memory:
            asked = self.r * observation.layout.gates
            # The relative, not the logarithmic, excess: its mean is zero where the mean number is the asked one.
            excess_B = memory["selected"] / asked - 1
            memory["log_tau"] = memory["log_tau"] + self.gain * excess_B.clamp(-1, 1)
        else:
            memory["log_tau"] = zero_B
        memory["selected"] = zero_B
