"""Token policies: tensors in, a selection out. They know no model."""

from policies.heuristics import All, Nothing, Periodic, Random, Threshold, TopFraction, TopR
from policies.protocol import GateObservation, Layout, Policy, Selection

__all__ = [
    "All",
    "GateObservation",
    "Layout",
    "Nothing",
    "Periodic",
    "Policy",
    "Random",
    "Selection",
    "Threshold",
    "TopFraction",
    "TopR",
]
