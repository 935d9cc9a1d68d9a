"""Calibrated heuristics: the honest opponents of a learned policy.

The paper uses one r or one h for all gates, though error norms differ by gate. A `ScoreThreshold` has a threshold for
each gate and budget: `CalibratedThreshold` on the error, `KeySimilarity` on the cosine, and those of
`policies.saliency`. `GlobalTopR` spreads one count over all gates by normalised errors. A policy that beats only the
uniform rules has learned no more than a calibration.

Shape suffixes: B streams, N tokens, G gates.
"""

from __future__ import annotations

import abc
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policies.budget import BudgetedPolicy, checked_count, excess
from policies.protocol import Budget, GateObservation, Granularity, Layout, Policy, PolicyMismatch, Selection
from policies.table import ThresholdTable


class ScoreThreshold(nn.Module, BudgetedPolicy):
    """All tokens whose score exceeds the threshold of their gate at the asked budget.

    Args:
        table: Thresholds on the score, filled by `train.calibration`.
        budget: Target share of the dense MACs, one for all streams or one for each (B,).
    """

    def __init__(self, table: ThresholdTable, budget: Budget = 0.1) -> None:
        super().__init__()
        self.table = table
        self.budget = budget

    @abc.abstractmethod
    def score(self, observation: GateObservation) -> Tensor:
        """What is held against the threshold (B, N), float32, as a logarithm."""

    def choose(self, observation: GateObservation, score_BN: Tensor) -> Selection:
        """The tokens to update, given their scores."""
        log_h_B = self.table(observation.gate, self.budget_per_stream(observation))
        return Selection.where(score_BN > log_h_B[:, None], observation, score_BN)

    def select(self, observation: GateObservation) -> Selection:
        """See `Policy.select`."""
        return self.choose(observation, self.score(observation))

    def check(self, gates: int, dim: int, granularity: Granularity) -> None:
        """See `Policy.check`."""
        if gates != self.table.gates:
            raise PolicyMismatch(f"the thresholds are for {self.table.gates} gates, the model has {gates}")


class CalibratedThreshold(ScoreThreshold):
    """All tokens whose error norm exceeds the threshold of their gate at the asked budget.

    Args:
        table: Thresholds on log error, filled by `train.calibration.calibrate`.
        budget: Target share of the dense MACs, one for all streams or one for each (B,).
    """

    def score(self, observation: GateObservation) -> Tensor:
        """log ||e||; minus infinity for tokens that have not changed at all."""
        return observation.error_BN.log()


class KeySimilarity(ScoreThreshold):
    """The tokens that are least similar to what was sent on last, by cosine: the rule of STC.

    STC compares keys. A gate comes before the projection that makes them, so that the current key does not exist yet
    when the decision is made; the cosine is that of the gate's input and reference tokens, which the key projection
    takes. In contrast to the error norm it does not see a change of length.

    Args:
        table: Thresholds on log(1 - cosine), filled by `train.calibration`.
        budget: Target share of the dense MACs, one for all streams or one for each (B,).
    """

    def score(self, observation: GateObservation) -> Tensor:
        """log(1 - cosine of c and u)."""
        c_BND, u_BND = (F.normalize(x.float(), dim=-1) for x in (observation.input_BND, observation.reference_BND))
        # 1 - cosine is half the squared distance of the unit vectors, which does not cancel for small changes.
        return ((c_BND - u_BND).square().sum(-1) / 2).clamp(min=_TINY).log()

    def macs(self, layout: Layout) -> float:
        """See `Policy.macs`: two norms, one distance."""
        return 3.0 * layout.tokens * layout.dim


_TINY = 1e-12


class GlobalTopR(Policy):
    """About r * G updates per frame, spread over the G gates by errors relative to each gate's usual size.

    At a gate, tokens are selected whose error exceeds tau times the running mean error of that gate; tau follows the
    number of tokens selected in the preceding frame, because later gates cannot be seen when earlier ones decide.
    With one gate per frame this is top-r exactly.

    Args:
        r: Mean number of tokens per gate and stream.
        gain: Step of log tau per frame, as a share of the relative excess of the realised over the asked number.
        momentum: Weight of the past in the running mean errors, in [0, 1).

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, r: int, gain: float = 0.3, momentum: float = 0.9) -> None:
        self.r, self.gain, self.momentum = checked_count("r", r, 1), gain, momentum
        if not 0 <= gain < math.inf or not 0 <= momentum < 1:
            raise ValueError(f"gain must be a number from 0, momentum in [0, 1): {gain=} {momentum=}")

    def select(self, observation: GateObservation) -> Selection:
        """See `Policy.select`."""
        layout = observation.layout
        if layout.gates == 1:
            return Selection.top(observation.error_BN, self.r, layout.pinned)
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
        selection = Selection.where(relative_BN > memory["log_tau"].exp()[:, None], observation, relative_BN)
        memory["selected"] = memory["selected"] + selection.as_mask(layout.tokens).sum(1)
        return selection

    def _follow(self, observation: GateObservation) -> None:
        """Moves log tau towards the asked number, once per frame."""
        memory, zero_B = observation.memory, observation.error_BN.new_zeros(observation.streams)
        if "log_tau" in memory:
            asked = self.r * observation.layout.gates
            excess_B = excess(observation, memory["selected"] / asked, 1)
            memory["log_tau"] = memory["log_tau"] + self.gain * excess_B
        else:
            memory["log_tau"] = zero_B
        memory["selected"] = zero_B
