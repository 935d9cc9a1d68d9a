"""A bound on age: no token is forgotten, whatever a rule thinks of it.

Hard: a token whose age has reached `max_age` is updated in addition to those that the rule selects. Soft: slope *
log(age) is added to the score of a rule that has one, so that what waits becomes more urgent. Either can be had for any
policy by `AgeBound`; a `TrainablePolicy` has the hard bound as an argument. What the bound spends is part of the
budget where thresholds are calibrated with it in place.

Source: WAM-Cache (arXiv 2610.11401) for the hard bound.

Shape suffixes: B streams, N tokens.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from policies.protocol import Budget, GateObservation, Granularity, Layout, Policy, Selection

CERTAIN = 1e3
"""Score of a token that is updated in any case."""


@runtime_checkable
class Scored(Protocol):
    """A rule that ranks tokens by a score, in units of log error."""

    def score(self, observation: GateObservation) -> Tensor:
        """Scores (B, N)."""

    def choose(self, observation: GateObservation, score_BN: Tensor) -> Selection:
        """The tokens to update, given their scores."""


def overdue(observation: GateObservation, max_age: int) -> Tensor:
    """Tokens whose age has reached the bound (B, N), bool."""
    return observation.age_BN >= max_age


def certain_where_overdue(score_BN: Tensor, observation: GateObservation, max_age: int | None) -> Tensor:
    """Scores with a constant, beyond doubt, for tokens that are overdue; as they are for None."""
    return score_BN if max_age is None else score_BN.masked_fill(overdue(observation, max_age), CERTAIN)


def with_overdue(selection: Selection, observation: GateObservation, max_age: int | None) -> Selection:
    """A selection with the overdue tokens added; as it is for None. Pinned tokens follow where any other is updated."""
    if max_age is None:
        return selection
    layout = observation.layout
    mask_BN = selection.as_mask(layout.tokens) | overdue(observation, max_age)
    mask_BN[:, : layout.pinned] |= mask_BN[:, layout.pinned :].any(1, keepdim=True)
    return Selection(mask_BN=mask_BN, score_BN=selection.score_BN)


def checked_max_age(max_age: int | None) -> int | None:
    """The bound as it is.

    Raises:
        ValueError: If it is neither None nor a whole number from 1.
    """
    if max_age is not None and (isinstance(max_age, bool) or not isinstance(max_age, int) or max_age < 1):
        raise ValueError(f"max_age must be a number of frames, at least 1, or None for no bound; got {max_age!r}")
    return max_age


class AgeBound(nn.Module, Policy):
    """A policy with a bound on the age of its tokens.

    Args:
        policy: Policy that is bounded. Its budget is that of the whole.
        max_age: Frames after which a token is updated in any case: ages that the gates show never exceed it.
            None for no hard bound.
        slope: What is added to the score for each unit of log(age); 0 for no soft bound.

    Raises:
        ValueError: If neither bound is given, one is out of range, or the slope is for a policy without scores.
    """

    def __init__(self, policy: Policy, max_age: int | None = None, slope: float = 0.0) -> None:
        super().__init__()
        if slope < 0:
            raise ValueError(f"slope must be at least 0, got {slope}")
        if max_age is None and not slope:
            raise ValueError("a bound on age needs max_age (hard), slope (soft) or both")
        if slope and not isinstance(policy, Scored):
            raise ValueError(f"slope needs a policy with scores (`score` and `choose`), which {policy.name} has not")
        self.policy, self.slope = policy, slope
        self.max_age = checked_max_age(max_age)

    @property
    def budget(self) -> Budget | None:
        """The policy's own; see `Policy.budget`."""
        return self.policy.budget

    @budget.setter
    def budget(self, budget: Budget) -> None:
        self.policy.budget = budget

    def select(self, observation: GateObservation) -> Selection:
        """See `Policy.select`."""
        policy = self.policy
        if self.slope and isinstance(policy, Scored):
            waited_BN = observation.age_BN.float().log()
            selection = policy.choose(observation, policy.score(observation) + self.slope * waited_BN)
        else:
            selection = policy.select(observation)
        return with_overdue(selection, observation, self.max_age)

    def check(self, gates: int, dim: int, granularity: Granularity) -> None:
        """See `Policy.check`."""
        self.policy.check(gates, dim, granularity)

    def macs(self, layout: Layout) -> float:
        """See `Policy.macs`."""
        return self.policy.macs(layout) + (layout.tokens if self.slope else 0)

    @property
    def name(self) -> str:
        """See `Policy.name`."""
        return f"{self.policy.name}+age"
