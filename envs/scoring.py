"""Scores of single frames: damage, reward, task loss and metric, each beside the dense model's on the same frame.

The dense model's results are kept, so that several rollouts over the same frames compute them once.

Shape suffixes: B streams, N tokens, C colours, H height, W width, G gates.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.damage import Damage, DamageMeter, Outcome
from envs.rewards import Reward
from envs.task import Target, VideoTask
from eventful.macs.ledger import FrameMacs
from eventful.model import EventfulModel

FrameKey = tuple[int, int]
"""(index of the clip, index of the frame in it)."""


@dataclass(frozen=True)
class FrameScore:
    """What one frame of one stream came to.

    Attributes:
        reward: In the units of the `Reward`.
        share: Share of the dense MACs.
        macs: MACs by operation.
        distance: Mean token distance to the dense model.
        worst: Mean of the 20 worst.
        rates_G: Share of the tokens that each gate selected.
        labelled: `loss`, `dense_loss`, `metric`, `dense_metric`, as far as there are any.
        damage_N: Damage at each token, in units of reward; None where it is one of the whole frame.
        output: `distance` (mean) and `worst` (mean of the 20 worst tokens) of the outputs to the dense model's, if the
            reward has them.
    """

    reward: float
    share: float
    macs: dict[str, float]
    distance: float
    worst: float
    rates_G: np.ndarray
    labelled: dict[str, float] = field(default_factory=dict)
    damage_N: Tensor | None = None
    output: dict[str, float] = field(default_factory=dict)

    def info(self) -> dict[str, Any]:
        """As the environments report it."""
        fidelity = {"distance": self.distance, "worst": self.worst}
        scores = {"share": self.share, "macs": dict(self.macs), "fidelity": fidelity, "rates": self.rates_G.copy()}
        return scores | self.labelled | ({"output": dict(self.output)} if self.output else {})


class FrameScorer:
    """Scores frames against the dense model and the labels.

    Args:
        task: Task that supplies loss, metric and output distance.
        model: Eventful model whose outputs are scored.
        reward: What they are worth.
        labels: Whether to compute loss and metric.
        cache_mb: Memory for the dense model's outcomes, in MiB; the least recently used go first.

    Raises:
        ValueError: If `cache_mb` is negative, or the reward needs labels, or a distance, that the task does not have.
    """

    def __init__(self, task: VideoTask, model: EventfulModel, reward: Reward, labels: bool, cache_mb: int) -> None:
        if cache_mb < 0:
            raise ValueError(f"cache_mb must be at least 0, got {cache_mb}")
        self.reward, self.dense_frames = reward, 0
        outputs = reward.objective.needs_outputs
        self._meter = DamageMeter(task, model.backbone, loss=labels, metric=labels, output=outputs)
        self._limit = cache_mb * 2**20
        self._cache: OrderedDict[FrameKey, Outcome] = OrderedDict()
        self._held = 0

    @torch.no_grad()
    def __call__(
        self,
        keys: Sequence[FrameKey],
        x_BCHW: Tensor,
        targets: Sequence[Target],
        features: Tensor,
        macs: FrameMacs,
        rates_BG: Tensor,
        budgets: Sequence[float],
    ) -> list[FrameScore]:
        """Scores one frame of each of B streams.

        Args:
            keys: Which frames these are.
            x_BCHW: The frames, as the model took them.
            targets: Their labels; empty without labels.
            features: What the eventful model made of them.
            macs: What it spent.
            rates_BG: Share of the tokens that each gate selected.
            budgets: Target share of each stream.
        """
        outcome, dense = self._meter.outcome(features, targets), self._dense(keys, x_BCHW, targets)
        damage = self._meter.damage(outcome, dense)
        damage_BN = self.reward.damage_by_token(damage)
        rewards = self.reward.of_frame(damage, macs.share.tolist(), list(budgets))
        labelled = [a | b for a, b in zip(_labelled(outcome), _labelled(dense, "dense_"), strict=True)]
        by_operation = {name: amount.tolist() for name, amount in macs.by_operation.items()}
        rates = rates_BG.cpu().numpy().astype(np.float32)
        return [
            FrameScore(
                reward=rewards[b],
                share=float(macs.share[b]),
                macs={name: amount[b] for name, amount in by_operation.items()},
                distance=float(damage.distance_B[b]),
                worst=float(damage.worst_B[b]),
                rates_G=rates[b],
                labelled=labelled[b],
                damage_N=None if damage_BN is None else damage_BN[b],
                output=_output(damage, b),
            )
            for b in range(len(rewards))
        ]

    def _dense(self, keys: Sequence[FrameKey], x_BCHW: Tensor, targets: Sequence[Target]) -> Outcome:
        """The dense model's outcomes; those that are not held are computed in one batch."""
        first_of = {key: b for b, key in reversed(list(enumerate(keys)))}
        found = {key: self._cache[key] for key in first_of if key in self._cache}
        missing = [key for key in first_of if key not in found]
        if missing:
            rows = [first_of[key] for key in missing]
            outcome = self._meter.dense(x_BCHW[rows], [targets[b] for b in rows] if targets else [])
            found |= {key: outcome.of_stream(i) for i, key in enumerate(missing)}
            self.dense_frames += len(missing)
        self._keep(found)
        return Outcome.cat([found[key] for key in keys])

    def _keep(self, used: dict[FrameKey, Outcome]) -> None:
        for key, outcome in used.items():
            if key not in self._cache:
                self._cache[key] = outcome
                self._held += outcome.nbytes
            self._cache.move_to_end(key)
        while self._held > self._limit:
            self._held -= self._cache.popitem(last=False)[1].nbytes


def _output(damage: Damage, stream: int) -> dict[str, float]:
    if damage.output_B is None or damage.output_worst_B is None:
        return {}
    return {"distance": float(damage.output_B[stream]), "worst": float(damage.output_worst_B[stream])}


def _labelled(outcome: Outcome, prefix: str = "") -> list[dict[str, float]]:
    """Loss and metric of each stream, as far as there are any."""
    rows: list[dict[str, float]] = [{} for _ in range(outcome.tokens_BND.shape[0])]
    for name, value_B in (("loss", outcome.loss_B), ("metric", outcome.metric_B)):
        for row, value in zip(rows, [] if value_B is None else value_B.tolist(), strict=False):
            if not math.isnan(value):
                row[prefix + name] = value
    return rows
