"""Token policies: tensors in, a selection out. They know no model."""

from policies.calibrated import CalibratedThreshold, GlobalTopR
from policies.checkpoint import CheckpointError, load
from policies.heuristics import All, Nothing, Periodic, Random, Threshold, TopFraction, TopR
from policies.learned import LearnedPolicy, PolicyMismatch
from policies.protocol import GateObservation, Layout, Policy, Selection
from policies.table import ThresholdTable

__all__ = [
    "All",
    "CalibratedThreshold",
    "CheckpointError",
    "GateObservation",
    "GlobalTopR",
    "Layout",
    "LearnedPolicy",
    "Nothing",
    "Periodic",
    "Policy",
    "PolicyMismatch",
    "Random",
    "Selection",
    "Threshold",
    "ThresholdTable",
    "TopFraction",
    "TopR",
    "load",
]
