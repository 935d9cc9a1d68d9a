"""The model card: data, command, scores with intervals, and what one frame alone is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from envs.vivit import ViViT
from train.evaluation.bootstrap import Estimate, means, resample_clips
from train.pages import replace_figures
from train.verbs.clips import LabelledTensors

_SAMPLES = 1000


@dataclass(frozen=True)
class Score:
    """How well a split is classified.

    Attributes:
        top1: Share of the clips whose class is the most probable one.
        one_frame: The same of the same model where every frame of a view is its first.
        by_class: Share by class, NaN for classes without clips.
        clips: Number of clips.
    """

    top1: Estimate
    one_frame: Estimate
    by_class: Sequence[float]
    clips: int


@torch.inference_mode()
def hits(vivit: ViViT, clips: LabelledTensors, one_frame: bool = False) -> Tensor:
    """Whether each clip is classified rightly, by the mean logits of its views (B,), bool."""
    vivit.eval()
    found = []
    for views_VTCHW, label in zip(clips.tensors, clips.labels, strict=True):
        shown = views_VTCHW[:, :1].expand_as(views_VTCHW) if one_frame else views_VTCHW
        found.append(int(vivit(shown).mean(0).argmax()) == label)
    return torch.tensor(found)


def score(vivit: ViViT, clips: LabelledTensors, classes: int) -> Score:
    """Scores a model on the views of a split."""
    draws = resample_clips(len(clips.labels), _SAMPLES, 0)
    right, one = hits(vivit, clips), hits(vivit, clips, one_frame=True)
    top1, one_frame = (Estimate.of(means(hit.double().tolist(), [1.0] * len(hit), draws)) for hit in (right, one))
    label_B = torch.tensor(clips.labels)
    by_class = [right[label_B == k].double().mean().item() for k in range(classes)]
    return Score(top1, one_frame, by_class, len(clips.labels))


def write_card(
    path: Path, options: Mapping[str, object], classes: Sequence[str], trained_on: int, scores: Mapping[str, Score]
) -> None:
    """Writes the figures between the marks of a card, which is made if there is none; the text around them is kept.

    Args:
        path: The card.
        options: Settings of the training, by name.
        classes: Names of the classes.
        trained_on: Number of clips that were trained on.
        scores: Scores by split.

    Raises:
        UserError: If the card lacks the marks.
    """
    command = " ".join(f"{name}={value}" for name, value in options.items())
    lines = [f"Command: `python -m train.verbs {command}`", "", f"Trained on {trained_on} clips.", ""]
    lines += ["| split | clips | top-1 | first frame repeated |", "|---|---|---|---|"]
    for split, found in scores.items():
        lines.append(f"| {split} | {found.clips} | {_percent(found.top1)} | {_percent(found.one_frame)} |")
    lines += ["", f"| class | {' | '.join(scores)} |", "|---" * (1 + len(scores)) + "|"]
    for k, name in enumerate(classes):
        lines.append(f"| {name} | " + " | ".join(f"{100 * found.by_class[k]:.0f}" for found in scores.values()) + " |")
    lines += ["", "Top-1 in per cent, with 95 % intervals from a bootstrap over clips; by class without."]
    replace_figures(path, "\n".join(lines), "Verbs: a small factorised ViViT")


def _percent(estimate: Estimate) -> str:
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * end for end in (estimate.value, estimate.low, estimate.high)))
