"""Which policies an evaluation compares, and how each of them is set to a budget.

    Learned              the checkpoint, deployed by threshold
    LearnedTop           the checkpoint, deployed by its r highest scores
    CalibratedThreshold  one threshold per gate, calibrated on the training split
    GlobalTopR           one count for all gates of a frame, by normalised errors
    TopR, Threshold      the paper's rules: one r, one h for all gates
    Random, Periodic     blind to the content
    All, Nothing         the dense model and the frozen one: where every frontier ends
    MODULE:FUNCTION      policies of your own (`train.evaluation.user_policies`)

A name may say how the model is run: `TopR@gate` decides at every gate, `TopR@frame` once per frame.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import nn

from eventful import EventfulModel
from eventful.errors import UserError
from eventful.tasks import nearest
from eventful.user_code import is_user_code, load_user_code
from policies import (
    All,
    CalibratedThreshold,
    GlobalTopR,
    Nothing,
    Periodic,
    Policy,
    Random,
    Threshold,
    ThresholdTable,
    TopR,
    TrainablePolicy,
)
from policies.protocol import Granularity
from train.calibration import CalibrationFrames, calibrate, realised_share, solve_shift
from train.evaluation import user_policies
from train.evaluation.results_file import Key

LABELS = {
    "Learned": "learned",
    "LearnedTop": "learned, top-r",
    "CalibratedThreshold": "calibrated threshold",
    "GlobalTopR": "global top-r",
    "TopR": "top-r",
    "Threshold": "threshold",
    "Random": "random",
    "Periodic": "periodic",
    "All": "all (dense)",
    "Nothing": "nothing",
}
"""Names of contenders, and what tables and plots call them."""

SAME_WITH_ONE_GATE = {"GlobalTopR": "TopR", "Threshold": "CalibratedThreshold"}
"""Rules that are the same rule when there is one decision per frame."""

TOLERANCE = 0.02
"""Of the log of the realised share, at which the search for a single threshold ends."""

STEPS = 12
"""Trials at most."""


@dataclass(frozen=True)
class Contender:
    """A kind of policy, run at a granularity.

    Attributes:
        name: One of `LABELS`, or `MODULE:FUNCTION`.
        granularity: How the model is run.
        visitor: Whether the granularity is not the evaluation's own; then the label says it.
    """

    name: str
    granularity: Granularity
    visitor: bool = False

    @property
    def id(self) -> str:
        """As written in the config."""
        return f"{self.name}@{self.granularity}" if self.visitor else self.name

    @property
    def label(self) -> str:
        """For tables and plots."""
        where = {"gate": ", per gate", "frame": ", per frame"}[self.granularity] if self.visitor else ""
        return LABELS.get(self.name, self.name) + where

    @property
    def learned(self) -> bool:
        """Whether it comes from a checkpoint."""
        return self.name in ("Learned", "LearnedTop")

    @property
    def end(self) -> bool:
        """Whether it has no budget: the dense model and the frozen one."""
        return self.name in ("All", "Nothing")


def parse_contenders(names: Sequence[str], own: Granularity) -> list[Contender]:
    """Contenders from names such as `TopR` or `TopR@gate`.

    Raises:
        UserError: If there is no such policy or granularity, or one is named twice.
    """
    found: list[Contender] = []
    for text in names:
        name, at, where = text.partition("@")
        if is_user_code(name):
            load_user_code(name, "policies")
        elif name not in LABELS:
            raise UserError(f"policies: there is no {name!r}{nearest(name, LABELS)} (known: {', '.join(LABELS)})")
        if at and where not in get_args(Granularity):
            raise UserError(f"policies: {text!r} must end in @gate or @frame")
        granularity: Granularity = "gate" if (where or own) == "gate" else "frame"
        contender = Contender(name, granularity, visitor=granularity != own)
        if contender.learned and contender.visitor:
            raise UserError(f"policies: {text!r}: the checkpoint was trained for granularity {own!r}")
        if contender in found:
            raise UserError(f"policies: {text!r} is there twice")
        found.append(contender)
    return found


def drop_twins(contenders: Sequence[Contender]) -> tuple[list[Contender], list[str]]:
    """Leaves out rules that are the same as another one that is there; also returns a note on each."""
    kept, notes = [], []
    for contender in contenders:
        twin = SAME_WITH_ONE_GATE.get(contender.name)
        same = [c for c in contenders if c.name == twin and c.granularity == contender.granularity == "frame"]
        if same:
            notes.append(f"with one decision per frame, {contender.label} is {same[0].label}, and is listed once")
        else:
            kept.append(contender)
    return kept, notes


class PolicyMaker:
    """Makes policies for budgets, calibrating once where that is needed.

    Args:
        models: The eventful model by granularity.
        frames: Supplies frames of the training split, for calibration.
        budgets: All budgets of the evaluation.
        checkpoints: Learned policies by the seed of their keys.
    """

    def __init__(
        self,
        models: Mapping[Granularity, EventfulModel],
        frames: Callable[[], CalibrationFrames],
        budgets: Sequence[float],
        checkpoints: Mapping[str, TrainablePolicy],
    ) -> None:
        self._models, self._frames, self._budgets = models, frames, sorted(budgets)
        self._checkpoints = checkpoints
        self._tables: dict[Granularity, ThresholdTable] = {}
        self._footage: CalibrationFrames | None = None
        self._free = All()

    def keys(self, contender: Contender, seeds: Sequence[int]) -> list[Key]:
        """The runs of a contender: by budget, and by checkpoint or random seed."""
        if contender.end:
            return [Key(contender.id)]
        names = [""]
        if contender.learned:
            names = list(self._checkpoints)
        elif is_user_code(contender.name):
            names = [user_policies.fingerprint(contender.name)]
        elif contender.name == "Random":
            names = [str(seed) for seed in seeds]
        return [Key(contender.id, budget, name) for budget in self._budgets for name in names]

    def policy(self, contender: Contender, key: Key) -> tuple[Policy, str]:
        """The policy of a run, and its setting in words."""
        if contender.name == "All":
            return All(), ""
        if contender.name == "Nothing":
            return Nothing(), ""
        budget = key.budget or 1.0
        if contender.learned:
            policy = self._checkpoints[key.seed]
            policy.budget = budget
            policy.select_by = "top" if contender.name == "LearnedTop" else "threshold"
            return policy, ""
        if is_user_code(contender.name):
            return user_policies.make(contender.name, budget), ""
        return self._heuristic(contender, budget, int(key.seed or 0))

    def _heuristic(self, contender: Contender, budget: float, seed: int) -> tuple[Policy, str]:
        name, granularity = contender.name, contender.granularity
        if name == "CalibratedThreshold":
            return CalibratedThreshold(self._table(granularity), budget), "calibrated"
        if name == "Threshold":
            h = self._threshold(granularity, budget)
            return Threshold(h), f"h={h:.3g}"
        if name == "Periodic":
            period = max(round(1 / budget), 1)
            return Periodic(period), f"period={period}"
        layout = self._model(granularity).layout(self._calibration_frames()[0])
        r = layout.count(budget)
        if name == "Random":
            return Random(r / layout.tokens, seed), f"r={r}"
        if name == "GlobalTopR":
            return GlobalTopR(max(r, 1)), f"r={max(r, 1)}"
        return TopR(r), f"r={r}"

    def _model(self, granularity: Granularity) -> EventfulModel:
        """A model with a policy that costs nothing itself, as none of the heuristics does."""
        model = self._models[granularity]
        model.policy = self._free
        return model

    def _calibration_frames(self) -> CalibrationFrames:
        if self._footage is None:
            self._footage = self._frames()
        return self._footage

    def _table(self, granularity: Granularity) -> ThresholdTable:
        if granularity not in self._tables:
            model = self._model(granularity)
            self._tables[granularity] = calibrate(model, self._calibration_frames(), self._budgets).table
        return self._tables[granularity]

    def _threshold(self, granularity: Granularity, budget: float) -> float:
        """The single h that spends the budget on the training frames."""
        table, model, frames = self._table(granularity), self._model(granularity), self._calibration_frames()
        start = float(table.log_threshold_KG[self._budgets.index(budget)].mean())

        def share_at(shift: float) -> float:
            return realised_share(model, frames, Threshold(math.exp(start + shift)).select)

        return math.exp(start + solve_shift(share_at, budget, TOLERANCE, STEPS))


def digest(module: nn.Module, *options: object) -> str:
    """Eight hex digits that change with a module's weights and with the options."""
    found = hashlib.sha256(repr(options).encode())
    for name, tensor in module.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:8]
