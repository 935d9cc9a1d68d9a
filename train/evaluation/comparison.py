"""From finished runs to frontiers, and from frontiers to differences at matched compute.

Runs of one policy that differ by seed or checkpoint are averaged before anything is compared. Realised shares differ
from asked ones, so policies are compared at exactly the asked budget, by interpolation over log share between a
policy's own points; each frontier ends in what updates nothing and in the dense model.

Shape suffixes: R resamples (row 0 is the sample itself), K budgets, S seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from train.evaluation.bootstrap import Array, Estimate, Verdict, means
from train.evaluation.contenders import Contender
from train.evaluation.frontier import Frontier
from train.evaluation.results_file import Key, Latency, Record


@dataclass(frozen=True)
class Measure:
    """What quality is.

    Attributes:
        id: `metric`, `distance` or `worst`.
        label: Name in tables.
        title: Title of a plot.
        axis: Label of a plot's axis, with units.
        higher_is_better: Its direction.
    """

    id: str
    label: str
    title: str
    axis: str
    higher_is_better: bool


_LOSS = "difference from the dense model's output\n(1 - cosine, "
DISTANCE = Measure("distance", "distance", "Lost fidelity", f"{_LOSS}mean over tokens)", False)
WORST = Measure("worst", "worst tokens", "Lost fidelity, worst tokens", f"{_LOSS}worst 20 tokens of each frame)", False)


@dataclass(frozen=True)
class FrontierPoint:
    """A contender at a budget, averaged over its seeds.

    Attributes:
        contender: Who.
        budget: Asked; None for contenders without one.
        records: The runs, one for each seed.
        share: Realised share of the dense MACs.
        share_flush: Likewise, with the flush counted.
        overall: Share with patch embedding and head on both sides.
        policy: Share that the policy itself costs.
        quality: By `Measure.id`.
        above_dense: Task metric minus the dense model's on the same resample; None for tasks without labels.
        spread: Largest minus smallest value over the seeds, by `Measure.id`; empty for one seed.
        latency: If measured.
    """

    contender: Contender
    budget: float | None
    records: Sequence[Record]
    share: Estimate
    share_flush: float
    overall: float
    policy: float
    quality: Mapping[str, Estimate]
    above_dense: Estimate | None
    spread: Mapping[str, float]
    latency: Latency | None

    @property
    def age_max(self) -> int:
        """Most frames that a token went without an update."""
        return max(max(record.age_max_U) for record in self.records)

    @property
    def rates_G(self) -> Array:
        """Share of the tokens that each gate selects."""
        return np.mean([record.rates_G for record in self.records], axis=0)


@dataclass(frozen=True)
class Difference:
    """Ours minus theirs at one budget."""

    ours: Contender
    theirs: Contender
    budget: float
    measure: Measure
    estimate: Estimate

    @property
    def verdict(self) -> Verdict:
        """A win or a loss if the interval leaves out zero."""
        return self.estimate.verdict(self.measure.higher_is_better)


class Comparison:
    """All runs of an evaluation.

    Args:
        contenders: Those that have runs, `All` and `Nothing` among them.
        records: Finished runs.
        latencies: Measured times.
        draws_RU: The resamples that the records were made with.
        metric_name: Name of the task's metric; None for tasks without labels.
        tolerances: How much worse than the dense model is still good enough: relative for a metric, absolute for a
            distance.
    """

    def __init__(
        self,
        contenders: Sequence[Contender],
        records: Sequence[Record],
        latencies: Mapping[Key, Latency],
        draws_RU: np.ndarray,
        metric_name: str | None,
        tolerances: Sequence[float],
    ) -> None:
        self._draws, self._latencies, self.tolerances = draws_RU, latencies, tuple(tolerances)
        self._runs: dict[Contender, dict[float | None, list[Record]]] = {}
        for contender in contenders:
            mine = [record for record in records if record.key.contender == contender.id]
            budgets = sorted({record.key.budget for record in mine}, key=lambda budget: budget or 0.0)
            self._runs[contender] = {b: [r for r in mine if r.key.budget == b] for b in budgets}
        self.measures = [DISTANCE, WORST]
        if metric_name is not None:
            self.measures.insert(0, Measure("metric", metric_name, "Quality on the task", metric_name, True))
        self._frontiers: dict[tuple[Contender, str], Frontier] = {}

    @property
    def labelled(self) -> bool:
        """Whether there is a task metric."""
        return self.measures[0].id == "metric"

    @cached_property
    def lines(self) -> list[Contender]:
        """Contenders with a frontier."""
        return [contender for contender in self._runs if not contender.end]

    @cached_property
    def budgets(self) -> list[float]:
        """All budgets, ascending."""
        return sorted({b for contender in self.lines for b in self._runs[contender] if b is not None})

    def points(self, contender: Contender) -> list[FrontierPoint]:
        """A contender's points, by budget."""
        return [self._point(contender, budget) for budget in self._runs[contender]]

    def end(self, name: str) -> FrontierPoint:
        """`All` or `Nothing`."""
        contender = next(c for c in self._runs if c.name == name and not c.visitor)
        return self._point(contender, None)

    def frontier(self, contender: Contender, measure: Measure) -> Frontier:
        """Quality against compute."""
        key = (contender, measure.id)
        if key not in self._frontiers:
            columns = list(self._runs[contender].values())
            share_RK = np.stack([self._mean(records, "share") for records in columns], 1)
            quality_RK = np.stack([self._mean(records, measure.id) for records in columns], 1)
            low, high = (self.end(name).records for name in ("Nothing", "All"))
            ends = [self._mean(records, name) for name in ("share", measure.id) for records in (low, high)]
            order = [ends[0], ends[2], ends[1], ends[3]]
            self._frontiers[key] = Frontier(share_RK, quality_RK, np.stack(order, 1))
        return self._frontiers[key]

    def rules(self, blind: bool = False) -> list[Contender]:
        """The hand-made rules: the opponents.

        Args:
            blind: Whether those that look at what the consumer cared for are left out.
        """
        return [c for c in self.lines if c.rule and not (blind and c.looks)]

    def differences(self, measure: Measure) -> list[Difference]:
        """Each learned policy minus each rule, at each budget."""
        return [
            self._difference(ours, theirs, measure, budget)
            for ours in self.lines
            if ours.learned
            for theirs in self.rules()
            for budget in self.budgets
        ]

    def against_best(self, ours: Contender, measure: Measure, budget: float, blind: bool = False) -> Difference | None:
        """A policy minus the rule that is best at a budget, on these clips; None if there is no rule.

        Args:
            ours: Whose difference.
            measure: Of quality.
            budget: Share of the dense MACs.
            blind: See `rules`.
        """
        sign = 1 if measure.higher_is_better else -1
        rules = self.rules(blind)
        if not rules:
            return None
        best = max(rules, key=lambda c: sign * float(self.frontier(c, measure).at(budget)[0]))
        return self._difference(ours, best, measure, budget)

    def needed(self, contender: Contender, tolerance: float) -> Estimate:
        """Share of the dense MACs that keeps the first measure within a tolerance of the dense model."""
        return Estimate.of(self.needed_R(contender, tolerance))

    def needed_R(self, contender: Contender, tolerance: float) -> Array:
        """The same for the sample and each resample (R + 1,); infinite where a policy never gets there."""
        measure = self.measures[0]
        dense_R = self._mean(self.end("All").records, measure.id)
        target_R = dense_R * (1 - tolerance) if measure.higher_is_better else np.full_like(dense_R, tolerance)
        return self.frontier(contender, measure).needed(target_R, measure.higher_is_better)

    def thriftiest(self, tolerance: float, blind: bool = False) -> Contender | None:
        """The rule that needs the smallest share on these clips; None if none of them gets there."""
        rules = self.rules(blind)
        best = min(rules, key=lambda c: self.needed_R(c, tolerance)[0], default=None)
        return None if best is None or np.isinf(self.needed_R(best, tolerance)[0]) else best

    def needed_ratio(self, ours: Contender, theirs: Contender, tolerance: float) -> Estimate:
        """Share that one policy needs over the share that another needs, on the same resamples.

        0 where only the other never gets there; resamples in which neither does are left out.
        """
        ours_R, theirs_R = self.needed_R(ours, tolerance), self.needed_R(theirs, tolerance)
        with np.errstate(invalid="ignore"):
            return Estimate.of(ours_R / theirs_R)

    def area(self, contender: Contender, measure: Measure) -> Estimate:
        """Mean quality over log share between the smallest and the largest budget."""
        return Estimate.of(self.frontier(contender, measure).area(self.budgets[0], self.budgets[-1]))

    def _difference(self, ours: Contender, theirs: Contender, measure: Measure, budget: float) -> Difference:
        gap_R = self.frontier(ours, measure).at(budget) - self.frontier(theirs, measure).at(budget)
        return Difference(ours, theirs, budget, measure, Estimate.of(gap_R))

    def _mean(self, records: Sequence[Record], column: str) -> Array:
        """Mean over seeds, for the sample and each resample (R + 1,)."""
        return np.mean([self._column(record, column) for record in records], axis=0)

    def _column(self, record: Record, column: str) -> Array:
        if column == "metric":
            return np.asarray(record.metric_R)
        return means(getattr(record, f"{column}_U"), record.frames_U, self._draws)

    def _above_dense(self, records: Sequence[Record]) -> Estimate:
        dense = next(runs[None] for c, runs in self._runs.items() if c.name == "All" and not c.visitor)
        return Estimate.of(self._mean(records, "metric") - self._mean(dense, "metric"))

    def _point(self, contender: Contender, budget: float | None) -> FrontierPoint:
        records = self._runs[contender][budget]
        ids = [measure.id for measure in self.measures]
        values = {i: [float(self._column(record, i)[0]) for record in records] for i in ids}
        flush = [np.average(r.share_flush_U, weights=np.array(r.frames_U) + 1) for r in records]
        timed = [self._latencies[record.key] for record in records if record.key in self._latencies]
        return FrontierPoint(
            contender,
            budget,
            records,
            share=Estimate.of(self._mean(records, "share")),
            share_flush=float(np.mean(flush)),
            overall=float(self._mean(records, "overall")[0]),
            policy=float(self._mean(records, "policy")[0]),
            quality={i: Estimate.of(self._mean(records, i)) for i in ids},
            above_dense=self._above_dense(records) if self.labelled else None,
            spread={i: max(v) - min(v) for i, v in values.items()} if len(records) > 1 else {},
            latency=timed[0] if timed else None,
        )
