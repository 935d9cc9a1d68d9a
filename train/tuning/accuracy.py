"""How well a temporal part classifies videos from their features.

Shape suffixes: B videos, V views, S steps, D channels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from envs.vivit import TemporalClassifier

Examples = Sequence[Callable[[], Tensor]]
"""For each video, what reads its features (V, S, D)."""


@dataclass(frozen=True)
class Accuracy:
    """Shares of videos whose class is the most probable one, and among the five most probable.

    Attributes:
        top1: The former.
        top5: The latter.
        loss: Mean ordinary cross entropy.
    """

    top1: float
    top5: float
    loss: float


@torch.no_grad()
def ranks(model: TemporalClassifier, examples: Examples, labels: Sequence[int], batch: int) -> tuple[Tensor, Tensor]:
    """Where each video's class stands among all by probability, 0 for the first, and its cross entropy (B,), (B,).

    The logits of a video are the mean of those of its views.
    """
    model.eval()
    device = model.cls_token.device
    ranks_B, losses_B = [], []
    for index in torch.arange(len(labels)).split(batch):
        tokens_BVSD, label_B = batch_of(examples, labels, index.tolist(), device)
        logits_BK = model(tokens_BVSD).mean(1)
        order_BK = logits_BK.argsort(descending=True, stable=True)
        ranks_B.append((order_BK == label_B[:, None]).int().argmax(1).cpu())
        losses_B.append(F.cross_entropy(logits_BK, label_B, reduction="none").cpu())
    return torch.cat(ranks_B), torch.cat(losses_B)


def accuracy(model: TemporalClassifier, examples: Examples, labels: Sequence[int], batch: int) -> Accuracy:
    """How well a temporal part classifies videos."""
    rank_B, loss_B = ranks(model, examples, labels, batch)
    top1, top5 = ((rank_B < most).double().mean().item() for most in (1, 5))
    return Accuracy(top1, top5, loss_B.double().mean().item())


def batch_of(
    examples: Examples, labels: Sequence[int], index: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Features (B, V, S, D) and classes (B,) of some of the videos."""
    tokens_BVSD = torch.stack([examples[i]() for i in index]).to(device)
    return tokens_BVSD, torch.tensor([labels[i] for i in index], device=device)
