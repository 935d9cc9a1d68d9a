"""Token policies: tensors in, a selection out. They know no model."""

from policies.age_bound import AgeBound
from policies.budget import BudgetedPolicy
from policies.calibrated import CalibratedThreshold, GlobalTopR, KeySimilarity, ScoreThreshold
from policies.checkpoint import CheckpointError, load
from policies.heuristics import All, Nothing, Periodic, Random, Threshold, TopFraction, TopR
from policies.learned import LearnedPolicy
from policies.protocol import GateObservation, Layout, Policy, PolicyMismatch, Selection
from policies.provenance import Provenance
from policies.saliency import SaliencyOrSurprise, SaliencyThreshold, SaliencyTopR
from policies.table import ThresholdTable
from policies.trainable import TrainablePolicy

__all__ = [
    "AgeBound",
    "All",
    "BudgetedPolicy",
    "CalibratedThreshold",
    "CheckpointError",
    "GateObservation",
    "GlobalTopR",
    "KeySimilarity",
    "Layout",
    "LearnedPolicy",
    "Nothing",
    "Periodic",
    "Policy",
    "PolicyMismatch",
    "Provenance",
    "Random",
    "SaliencyOrSurprise",
    "SaliencyThreshold",
    "SaliencyTopR",
    "ScoreThreshold",
    "Selection",
    "Threshold",
    "ThresholdTable",
    "TopFraction",
    "TopR",
    "TrainablePolicy",
    "load",
]
