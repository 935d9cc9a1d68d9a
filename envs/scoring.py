"""Scores of single frames: fidelity, task loss, task metric, each beside the dense model's on the same frame.

The dense model's results are kept, so that several rollouts over the same frames compute them once.

Shape suffixes: B streams, N tokens, D channels, C colours, H height, W width, G gates.
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

from envs.rewards import Damage, Reward
from envs.task import Target, VideoTask, token_distance
from eventful.fidelity import distances
from eventful.macs.ledger import FrameMacs
from eventful.model import EventfulModel

FrameKey = tuple[int, int]
"""(index of the clip, index of the frame in it)."""


@dataclass(frozen=True)
class FrameScore:
    """What one frame of one stream came to.

    Attributes:
        reward: In the units of the `Reward`.
        ratio: Share of the dense MACs.
        macs: MACs by operation.
        mean: Mean token distance to the dense model.
        worst: Mean of the 20 worst.
        rates_G: Share of the tokens that each gate selected.
        labelled: `loss`, `dense_loss`, `metric`, `dense_metric`, as far as there are any.
        damage_N: Damage at each token, in units of reward; None where it is one of the whole frame.
    """

    reward: float
    ratio: float
    macs: dict[str, float]
    mean: float
    worst: float
    rates_G: np.ndarray
    labelled: dict[str, float] = field(default_factory=dict)
    damage_N: Tensor | None = None

    def info(self) -> dict[str, Any]:
        """As the environments report it."""
        fidelity = {"mean": self.mean, "worst": self.worst}
        macs = dict(self.macs)
        return {"ratio": self.ratio, "macs": macs, "fidelity": fidelity, "rates": self.rates_G.copy(), **self.labelled}


@dataclass(frozen=True)
class _Dense:
    tokens_ND: Tensor
    labelled: dict[str, float]
    loss_N: Tensor | None

    @property
    def nbytes(self) -> int:
        return self.tokens_ND.numel() * self.tokens_ND.element_size()


class FrameScorer:
    """Scores frames against the dense model and the labels.

    Args:
        task: With the loss and the metric.
        model: Whose outputs are scored.
        reward: What they are worth.
        labels: Whether to compute loss and metric.
        cache_mb: Memory for the dense model's final tokens, in MiB; the least recently used go first.
    """

    def __init__(self, task: VideoTask, model: EventfulModel, reward: Reward, labels: bool, cache_mb: int) -> None:
        self._task, self._model, self.reward, self._labels = task, model, reward, labels
        self._limit = cache_mb * 2**20
        self._cache: OrderedDict[FrameKey, _Dense] = OrderedDict()
        self._held = 0
        self.dense_frames = 0

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
            budgets: Of the streams.
        """
        dense = self._dense(keys, x_BCHW, targets)
        dense_BND = torch.stack([d.tokens_ND for d in dense])
        mean_B, worst_B = (x.tolist() for x in token_distance(_tokens(features), dense_BND))
        labelled, loss_BN = self._against_labels(features, targets)
        damage_BN = self.reward.by_token(distances(_tokens(features), dense_BND), _excess(loss_BN, dense))
        ratio_B = macs.ratio.tolist()
        by_operation = {name: amount.tolist() for name, amount in macs.by_operation.items()}
        rates = rates_BG.cpu().numpy().astype(np.float32)
        scores = []
        for b, budget in enumerate(budgets):
            mine = labelled[b] | {f"dense_{name}": value for name, value in dense[b].labelled.items()}
            damage = Damage(mean_B[b], worst_B[b], _difference(mine, "loss", 1), _difference(mine, "metric", -1))
            reward = self.reward(damage, ratio_B[b], budget)
            spent = {name: amount[b] for name, amount in by_operation.items()}
            damage_N = None if damage_BN is None else damage_BN[b]
            scores.append(FrameScore(reward, ratio_B[b], spent, mean_B[b], worst_B[b], rates[b], mine, damage_N))
        return scores

    def _dense(self, keys: Sequence[FrameKey], x_BCHW: Tensor, targets: Sequence[Target]) -> list[_Dense]:
        """The dense model's results; those that are not held are computed in one batch."""
        first_of = {key: b for b, key in reversed(list(enumerate(keys)))}
        found = {key: self._cache[key] for key in first_of if key in self._cache}
        missing = [key for key in first_of if key not in found]
        if missing:
            rows = [first_of[key] for key in missing]
            features = self._model.backbone.vit.forward_features(x_BCHW[rows])  # type: ignore[operator]
            labelled, loss_BN = self._against_labels(features, [targets[b] for b in rows] if targets else [])
            tokens_BND = _tokens(features)
            for i, key in enumerate(missing):
                # Copies: a slice would keep the whole batch alive.
                loss_N = None if loss_BN is None else loss_BN[i].clone()
                found[key] = _Dense(tokens_BND[i].clone(), labelled[i], loss_N)
            self.dense_frames += len(missing)
        self._keep(found)
        return [found[key] for key in keys]

    def _keep(self, used: dict[FrameKey, _Dense]) -> None:
        for key, dense in used.items():
            if key not in self._cache:
                self._cache[key] = dense
                self._held += dense.nbytes
            self._cache.move_to_end(key)
        while self._held > self._limit:
            self._held -= self._cache.popitem(last=False)[1].nbytes

    def _against_labels(
        self, features: Tensor, targets: Sequence[Target]
    ) -> tuple[list[dict[str, float]], Tensor | None]:
        """Loss and metric of each stream, and each token's part of the loss if the task tells it (B, N)."""
        if not self._labels:
            return [{} for _ in range(features.shape[0])], None
        outputs = self._model.backbone.head(features)
        token_loss = getattr(self._task, "token_loss", None)
        loss_BN = None if token_loss is None else token_loss(outputs, targets)
        loss_B = (self._task.loss(outputs, targets) if loss_BN is None else loss_BN.sum(1)).tolist()
        metric_B = frame_metric(self._task, outputs, targets).tolist()
        pairs = zip(loss_B, metric_B, strict=True)
        rows = [{"loss": loss} | ({} if math.isnan(metric) else {"metric": metric}) for loss, metric in pairs]
        return rows, loss_BN


def frame_metric(task: VideoTask, outputs: Any, targets: Sequence[Target]) -> Tensor:
    """The task metric of each single frame (B,), NaN where a frame has none.

    A task that has a better measure of single frames than its metric over one frame offers it as a method
    `frame_metric(outputs, targets)`.
    """
    own = getattr(task, "frame_metric", None)
    if own is not None:
        return own(outputs, targets)
    values = []
    for b, target in enumerate(targets):
        metric = task.metric()
        if metric is None:
            raise ValueError(f"task {task.name} has labels, but no metric")
        metric.update("frame", outputs[b : b + 1], [target])
        values.append(metric.compute())
    return torch.tensor(values, dtype=torch.float32)


def _tokens(features: Tensor) -> Tensor:
    """Final tokens (B, N, D) of models that return them as a list or as a map."""
    return features.flatten(1, -2)


def _excess(loss_BN: Tensor | None, dense: Sequence[_Dense]) -> Tensor | None:
    """Each token's part of the task loss, above the dense model's."""
    dense_BN = [d.loss_N for d in dense if d.loss_N is not None]
    return None if loss_BN is None else loss_BN - torch.stack(dense_BN)


def _difference(labelled: dict[str, float], name: str, sign: int) -> float | None:
    if name not in labelled or f"dense_{name}" not in labelled:
        return None
    return sign * (labelled[name] - labelled[f"dense_{name}"])
