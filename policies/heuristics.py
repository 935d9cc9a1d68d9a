"""Hand-made policies: the paper's top-r and threshold, and the baselines that any policy must beat.

Eventful Transformers, section 4.2: "top-r" takes the r tokens with the largest error norm, "threshold" all whose norm
exceeds h. `Random`, `Periodic`, `All` and `Nothing` mark the ends of the scale.
"""

from __future__ import annotations

import math

import torch

from policies.budget import checked_count
from policies.protocol import GateObservation, Policy, Selection


class TopR(Policy):
    """The r tokens with the largest error norm, in every gate. Prefix tokens are among the r.

    Args:
        r: Number of tokens per gate and stream; more than N selects all.

    Raises:
        ValueError: If r is negative or no whole number.
    """

    def __init__(self, r: int) -> None:
        self.r = checked_count("r", r)

    def select(self, observation: GateObservation) -> Selection:
        """See `Policy.select`."""
        return Selection.top_errors(observation, self.r)


class TopFraction(Policy):
    """Top-r with r given as a fraction of the tokens, so that one setting serves all frame sizes.

    Args:
        fraction: Share of the tokens per gate, in [0, 1].

    Raises:
        ValueError: If the fraction is not in [0, 1].
    """

    def __init__(self, fraction: float) -> None:
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction must be in [0, 1], got {fraction}")
        self.fraction = fraction

    def select(self, observation: GateObservation) -> Selection:
        """See `Policy.select`."""
        return Selection.top_errors(observation, round(self.fraction * observation.layout.tokens))


class Threshold(Policy):
    """All tokens whose error norm exceeds h, one h for all gates.

    Args:
        h: Threshold on the L2 norm of the error, in the units of the tokens at the gate.

    Raises:
        ValueError: If h is negative, infinite or NaN.
    """

    def __init__(self, h: float) -> None:
        if not 0 <= h < math.inf:
            raise ValueError(f"h must be a number from 0, got {h}")
        self.h = h

    def select(self, observation: GateObservation) -> Selection:
        """See `Policy.select`."""
        return Selection.where(observation.error_BN > self.h, observation, observation.error_BN)


class Random(Policy):
    """A random set of tokens, blind to the errors.

    Args:
        fraction: Share of the tokens per gate, in [0, 1].
        seed: Seed of the policy's own random generator.
    """

    def __init__(self, fraction: float, seed: int = 0) -> None:
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction must be in [0, 1], got {fraction}")
        self.fraction = fraction
        self._generator = torch.Generator().manual_seed(seed)

    def select(self, observation: GateObservation) -> Selection:
        """See `Policy.select`."""
        layout = observation.layout
        score_BN = torch.rand(observation.streams, layout.tokens, generator=self._generator)
        r = round(self.fraction * layout.tokens)
        return Selection.top(score_BN.to(observation.input_BND.device), r, layout.pinned)


class Periodic(Policy):
    """Everything on every period-th frame since the flush, nothing between: a lower frame rate.

    Args:
        period: Frames from one full update to the next, at least 1.
    """

    def __init__(self, period: int) -> None:
        self.period = checked_count("period", period, 1)

    def select(self, observation: GateObservation) -> Selection:
        """See `Policy.select`."""
        due_B1 = observation.age_BN.amax(1, keepdim=True) >= self.period
        return Selection(mask_BN=due_B1.expand_as(observation.age_BN))


class All(Policy):
    """Every token: the dense model."""

    def select(self, observation: GateObservation) -> Selection:
        """See `Policy.select`."""
        return Selection.all(observation)


class Nothing(Policy):
    """No token: the output of the flush, for ever."""

    def select(self, observation: GateObservation) -> Selection:
        """See `Policy.select`."""
        return Selection.none(observation)
