"""Rules that look at what the consumer of the outputs cared for: the opponents to beat.

    SaliencyThreshold    log ||e|| + exponent * log(s + floor) > log h
    SaliencyTopR         the r tokens in which that is largest
    SaliencyOrSurprise   s among the largest, or ||e|| > h, or older than max_age: the rule of WAM-Cache

with s the largest saliency in the token's neighbourhood in the last frame's outputs (`weighted_log_error`). They need a
model that supplies saliency, and say so where it does not.

Source: WAM-Cache (arXiv 2610.11401) for the third.

Shape suffixes: B streams, N tokens.
"""

from __future__ import annotations

from torch import Tensor

from policies.age_bound import checked_max_age, with_overdue
from policies.budget import checked_count
from policies.calibrated import ScoreThreshold
from policies.features import NO_SALIENCY, WINDOW, largest_around, log_error, weighted_log_error, weighted_macs
from policies.protocol import Budget, GateObservation, Layout, Policy, PolicyMismatch, Selection
from policies.table import ThresholdTable


class SaliencyThreshold(ScoreThreshold):
    """All tokens whose error, weighed by saliency, exceeds the threshold of their gate at the asked budget.

    Args:
        table: Thresholds on the weighted log error, filled by `train.calibration`.
        budget: Target share of the dense MACs, one for all streams or one for each (B,).
        exponent: How much saliency counts, above 0.
        floor: Saliency of what nobody looked at, above 0.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, table: ThresholdTable, budget: Budget = 0.1, exponent: float = 1.0, floor: float = 0.02) -> None:
        super().__init__(table, budget)
        self.exponent, self.floor = _checked(exponent, floor)

    def score(self, observation: GateObservation) -> Tensor:
        """The weighted log error; see `weighted_log_error` for the error that is raised without saliency."""
        return weighted_log_error(observation, self.exponent, self.floor)

    def macs(self, layout: Layout) -> float:
        """See `Policy.macs`."""
        return weighted_macs(layout, self.exponent)


class SaliencyTopR(Policy):
    """The r tokens with the largest error, weighed by saliency, in every gate. Prefix tokens are among the r.

    Args:
        r: Number of tokens per gate and stream; more than N selects all.
        exponent: How much saliency counts, above 0.
        floor: Saliency of what nobody looked at, above 0.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, r: int, exponent: float = 1.0, floor: float = 0.02) -> None:
        self.r = checked_count("r", r)
        self.exponent, self.floor = _checked(exponent, floor)

    def score(self, observation: GateObservation) -> Tensor:
        """The weighted log error (B, N)."""
        return weighted_log_error(observation, self.exponent, self.floor)

    def choose(self, observation: GateObservation, score_BN: Tensor) -> Selection:
        """The r highest scores."""
        return Selection.top(score_BN, self.r, observation.layout.pinned)

    def select(self, observation: GateObservation) -> Selection:
        """See `Policy.select`."""
        return self.choose(observation, self.score(observation))

    def macs(self, layout: Layout) -> float:
        """See `Policy.macs`."""
        return weighted_macs(layout, self.exponent)


class SaliencyOrSurprise(ScoreThreshold):
    """What the consumer looked at, or what has changed, or what has waited too long.

    Args:
        table: Thresholds on log error, filled by `train.calibration`: the one knob for the budget.
        budget: Target share of the dense MACs, one for all streams or one for each (B,).
        salient: Share of the patch tokens, those with the largest saliency, that is always updated, in [0, 1). Ties
            with the first that is left out are left out too, so that a saliency that is alike everywhere selects none.
        max_age: Frames after which a token is updated in any case; None for no bound.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self, table: ThresholdTable, budget: Budget = 0.1, salient: float = 0.05, max_age: int | None = None
    ) -> None:
        super().__init__(table, budget)
        if not 0 <= salient < 1:
            raise ValueError(f"salient must be a share of the tokens in [0, 1), got {salient}")
        self.salient, self.max_age = salient, checked_max_age(max_age)

    def score(self, observation: GateObservation) -> Tensor:
        """log ||e||, the surprise."""
        return log_error(observation)

    def choose(self, observation: GateObservation, score_BN: Tensor) -> Selection:
        """Those above the threshold, the most salient ones, and those that are overdue."""
        log_h_B = self.table(observation.gate, self.budget_per_stream(observation))
        mask_BN = (score_BN > log_h_B[:, None]) | most_salient(observation, self.salient)
        return with_overdue(Selection.where(mask_BN, observation, score_BN), observation, self.max_age)

    def macs(self, layout: Layout) -> float:
        """See `Policy.macs`: the largest saliency around each token."""
        return weighted_macs(layout, 1.0)


def most_salient(observation: GateObservation, share: float) -> Tensor:
    """The share of the patch tokens around which saliency was largest (B, N), bool; no prefix tokens.

    Raises:
        PolicyMismatch: If nobody says what the consumer cares for.
    """
    if observation.saliency_BN is None:
        raise PolicyMismatch(f"the policy selects by saliency, {NO_SALIENCY}")
    layout = observation.layout
    around_BN = largest_around(observation.saliency_BN.float(), layout, WINDOW)
    patches_BN = around_BN[:, layout.prefix :]
    left_out = patches_BN.shape[1] - round(share * patches_BN.shape[1])
    cut_B1 = patches_BN.kthvalue(max(left_out, 1), dim=1, keepdim=True).values
    mask_BN = around_BN > cut_B1
    mask_BN[:, : layout.prefix] = False
    return mask_BN


def _checked(exponent: float, floor: float) -> tuple[float, float]:
    if exponent <= 0 or floor <= 0:
        raise ValueError(
            f"exponent and floor must be above 0: {exponent=} {floor=} "
            "(without saliency, the rules are CalibratedThreshold and TopR)"
        )
    return exponent, floor
