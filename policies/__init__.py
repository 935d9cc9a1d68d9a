"""Token policies: tensors in, a selection out. They know no model."""

from policies.budget import BudgetedPolicy
from policies.calibrated import CalibratedThreshold, GlobalTopR
from policies.checkpoint import CheckpointError, load
from policies.heuristics import All, Nothing, Periodic, Random, Threshold, TopFraction, TopR
from policies.learned import LearnedPolicy
from policies.protocol import GateObservation, Layout, Policy, PolicyMismatch, Selection
from policies.provenance import Provenance
from policies.table import ThresholdTable
from policies.trainable import TrainablePolicy

__all__ = [
    "All",
    "BudgetedPolicy",
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
    "Provenance",
    "Random",
    "Selection",
    "Threshold",
    "ThresholdTable",
    "TopFraction",
    "TopR",
    "TrainablePolicy",
    "load",
]
