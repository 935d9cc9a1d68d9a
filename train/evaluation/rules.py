"""How each rule is set to a budget on frames of the training split: its knob, and what is tuned beside it.

    rule                        knob        tuned
    CalibratedThreshold         thresholds
    KeySimilarity               thresholds
    SaliencyThreshold           thresholds  exponent, floor
    SaliencyTopR                r           exponent, floor
    SaliencyOrSurprise          thresholds  share of the budget for the most salient tokens; max_age
    NAME+age                    NAME's      as NAME; then max_age or, for rules with scores, the slope of a soft bound
    Threshold                   h
    TopR, GlobalTopR, Random    r
    Periodic                    period

What is tuned is tuned once, at `TUNED_AT` and on a few of the streams, and holds for all budgets; the knob is turned
for each of them. A hard bound on age is a multiple of the time in which the budget pays for every token once.

Shape suffixes: K budgets, G gates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from policies import (
    AgeBound,
    All,
    CalibratedThreshold,
    GlobalTopR,
    KeySimilarity,
    Periodic,
    Policy,
    Random,
    SaliencyOrSurprise,
    SaliencyThreshold,
    SaliencyTopR,
    ScoreThreshold,
    Threshold,
    ThresholdTable,
    TopR,
)
from policies.age_bound import Scored
from train.calibration import calibrate, first_thresholds, realised_share, solve_shift
from train.evaluation.contenders import Contender
from train.evaluation.trials import Knob, Setting, Trials

WEIGHING = {"exponent": (1.0, 0.5, 2.0), "floor": (0.02, 0.1)}
TURNS = (3.0, 1.5)
"""Hard bounds on age, in multiples of 1 / budget."""
GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "SaliencyThreshold": WEIGHING,
    "SaliencyTopR": WEIGHING,
    # Shares of the budget that go to the most salient tokens.
    "SaliencyOrSurprise": {"salient": (0.5, 0.25, 0.75), "turns": TURNS},
}
HARD: list[Setting] = [{"turns": turns} for turns in TURNS]
SOFT: list[Setting] = [{"slope": 0.3}, {"slope": 1.0}]

TUNED_AT = 0.15
"""Share of the dense MACs at which is tuned. It is the same for all evaluations, so that a budget that is added to a
finished one finds the rules as they were."""

FEW = 4
"""Streams on which is tuned, at most."""

TOLERANCE, STEPS = 0.02, 12
"""Of the search for the single threshold h."""

_THRESHOLDED = ("CalibratedThreshold", "KeySimilarity", "SaliencyThreshold", "SaliencyOrSurprise")


class Rules:
    """The rules of one granularity, each set to a budget once.

    Args:
        trials: Tries policies on the calibration frames.
        budgets: All budgets of the evaluation.
    """

    def __init__(self, trials: Trials, budgets: Sequence[float]) -> None:
        self._trials, self._budgets = trials, sorted(budgets)
        self._few = trials.with_streams(FEW)
        self._layout = trials.model.layout(trials.frames[0])
        self._calibrated: ThresholdTable | None = None
        self._single: dict[float, float] = {}
        self._starts: dict[tuple[object, ...], Tensor] = {}
        self._settings: dict[str, Setting] = {}
        self._tuned: dict[tuple[str, float, int], tuple[Policy, str]] = {}

    def policy(self, contender: Contender, budget: float, seed: int = 0) -> tuple[Policy, str]:
        """A rule at a budget, and its setting in words.

        Args:
            contender: Which rule.
            budget: Share of the dense MACs.
            seed: Of the random rule.
        """
        # GlobalTopR follows its count only after some frames: what it spends has to be tried.
        if not contender.aged and contender.name not in ("KeySimilarity", "GlobalTopR", *GRIDS):
            return self._plain(contender.name, budget, seed)
        key = (contender.id, budget, seed)
        if key not in self._tuned:
            knob = self._knob(self._trials, contender.name, budget, self._setting(contender), seed)
            policy = self._trials.at_budget(knob, budget)
            self._tuned[key] = policy, in_words(policy)
        return self._tuned[key]

    def _plain(self, name: str, budget: float, seed: int) -> tuple[Policy, str]:
        """The rules with nothing to tune."""
        if name == "CalibratedThreshold":
            return CalibratedThreshold(self._table(), budget), "calibrated"
        if name == "Threshold":
            h = self._single_threshold(budget)
            return Threshold(h), f"h={h:.3g}"
        if name == "Periodic":
            period = max(round(1 / budget), 1)
            return Periodic(period), f"period={period}"
        policy = self._counted(name, self._layout.count(budget), {}, seed)
        return policy, in_words(policy)

    def _setting(self, contender: Contender) -> Setting:
        """What is best beside the knob: one entry after the other, a bound on age last."""
        if contender.id not in self._settings:
            best: Setting = {}
            if contender.aged:
                best = self._setting(replace(contender, aged=False))
                scored = isinstance(self._knob(self._few, contender.name, TUNED_AT, best)(0.0), Scored)
                best = self._best(contender.name, [best | bound for bound in (HARD + SOFT if scored else HARD)])
            else:
                grid = GRIDS.get(contender.name, {})
                best = {name: values[0] for name, values in grid.items()}
                for name, values in grid.items():
                    best = self._best(contender.name, [best | {name: value} for value in values])
            self._settings[contender.id] = best
        return self._settings[contender.id]

    def _best(self, name: str, settings: Sequence[Setting]) -> Setting:
        knobs = [self._knob(self._few, name, TUNED_AT, setting) for setting in settings]
        return settings[self._few.best(knobs, TUNED_AT)]

    def _knob(self, trials: Trials, name: str, budget: float, setting: Setting, seed: int = 0) -> Knob:
        """A rule at a setting, which at 0 is near a budget."""
        if name in _THRESHOLDED:
            return _bounded(self._table_knob(trials, name, budget, setting), name, setting, budget)
        if name == "Threshold":
            h = self._single_threshold(budget)
            return _bounded(lambda shift: Threshold(h * math.exp(shift)), name, setting, budget)
        own = self._counted(name, 0, setting, seed).share(self._layout)
        r = self._layout.count(budget - own)

        def counted(shift: float) -> Policy:
            return self._counted(name, round(r * math.exp(-shift)), setting, seed)

        return _bounded(counted, name, setting, budget)

    def _counted(self, name: str, r: int, setting: Setting, seed: int) -> Policy:
        if name == "Random":
            return Random(min(r / self._layout.tokens, 1.0), seed)
        if name == "GlobalTopR":
            return GlobalTopR(max(r, 1))
        return SaliencyTopR(r, setting["exponent"], setting["floor"]) if name == "SaliencyTopR" else TopR(r)

    def _table_knob(self, trials: Trials, name: str, budget: float, setting: Setting) -> Knob:
        start = self._start(trials, name, budget, setting)

        def knob(shift: float) -> Policy:
            table = ThresholdTable([budget], self._layout.gates).to(start.device)
            table.log_threshold_KG.copy_(start + shift)
            return _thresholded(name, table, setting, budget)

        return knob

    def _start(self, trials: Trials, name: str, budget: float, setting: Setting) -> Tensor:
        """Log thresholds that come near a budget (1, G). They depend on what scores do, not on bounds and the like."""
        key = (len(trials.frames[0]), name, budget, setting.get("exponent"), setting.get("floor"))
        if key not in self._starts:
            policy = _thresholded(name, ThresholdTable([budget], self._layout.gates), setting, budget)
            trials.model.policy = policy
            found = first_thresholds(trials.model, trials.frames, [budget], policy.score)
            self._starts[key] = found.table.log_threshold_KG
        return self._starts[key]

    def _table(self) -> ThresholdTable:
        if self._calibrated is None:
            self._trials.model.policy = All()
            self._calibrated = calibrate(self._trials.model, self._trials.frames, self._budgets).table
        return self._calibrated

    def _single_threshold(self, budget: float) -> float:
        """The single h that spends the budget on the training frames."""
        if budget in self._single:
            return self._single[budget]
        table, model, frames = self._table(), self._trials.model, self._trials.frames
        model.policy = All()
        nearest = min(range(len(self._budgets)), key=lambda k: abs(math.log(self._budgets[k] / budget)))
        start = float(table.log_threshold_KG[nearest].mean())

        def share_at(shift: float) -> float:
            return realised_share(model, frames, Threshold(math.exp(start + shift)).select)

        self._single[budget] = math.exp(start + solve_shift(share_at, budget, TOLERANCE, STEPS))
        return self._single[budget]


def in_words(policy: Policy) -> str:
    """The setting of a rule, such as `r=39, exponent=1, floor=0.02`."""
    inner = policy.policy if isinstance(policy, AgeBound) else policy
    found: list[str] = []
    for owner in dict.fromkeys((inner, policy)):
        names = ("r", "fraction", "h", "exponent", "floor", "salient", "max_age", "slope")
        values = {name: getattr(owner, name, None) for name in names}
        found += [f"{name}={_number(value)}" for name, value in values.items() if value]
    return ", ".join(found) or "calibrated"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def _thresholded(name: str, table: ThresholdTable, setting: Setting, budget: float) -> ScoreThreshold:
    if name == "SaliencyThreshold":
        return SaliencyThreshold(table, budget, setting["exponent"], setting["floor"])
    if name == "SaliencyOrSurprise":
        return SaliencyOrSurprise(table, budget, setting["salient"] * budget, _max_age(setting, budget))
    return KeySimilarity(table, budget) if name == "KeySimilarity" else CalibratedThreshold(table, budget)


def _bounded(knob: Knob, name: str, setting: Setting, budget: float) -> Knob:
    """With the bound on age of the setting, if it has one that is not the rule's own."""
    if name == "SaliencyOrSurprise" or not ("turns" in setting or "slope" in setting):
        return knob
    return lambda shift: AgeBound(knob(shift), _max_age(setting, budget), setting.get("slope", 0.0))


def _max_age(setting: Setting, budget: float) -> int | None:
    return max(math.ceil(setting["turns"] / budget), 2) if "turns" in setting else None
