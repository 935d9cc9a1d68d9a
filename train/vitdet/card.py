"""The model card: data, command, scores by both rules and by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from envs.vid import VidSplit
from train.pages import replace_figures
from train.vitdet.score import Score


def write_card(
    path: Path, recipe: Mapping[str, object], classes: Sequence[str], trained_on: VidSplit, scores: Mapping[str, Score]
) -> None:
    """Writes the figures between the marks of a card, which is made if there is none; the text around them is kept.

    Args:
        path: The card.
        recipe: Settings of the training, by name.
        classes: Names of the classes.
        trained_on: What was trained on.
        scores: Scores by split.

    Raises:
        UserError: If the card lacks the marks.
    """
    settings = yaml.safe_dump(dict(recipe), sort_keys=False, width=110).strip()
    lines = ["Made by `python -m train.vitdet`, with the settings", "", "```yaml", settings, "```", ""]
    lines += [f"on {trained_on.frames} frames of {len(trained_on.sequences)} sequences.", ""]
    lines += ["| split | frames | mAP50, IoU above 0.5 | mAP50, COCO's rule |", "|---|---|---|---|"]
    for split, found in scores.items():
        lines.append(f"| {split} | {found.frames} | {found.published:.3f} | {found.coco:.3f} |")
    lines += ["", f"| AP50 by class | {' | '.join(scores)} |", "|---" * (1 + len(scores)) + "|"]
    for name in classes:
        cells = [f"{found.by_class[name]:.3f}" if name in found.by_class else "" for found in scores.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    replace_figures(path, "\n".join(lines), "A ViTDet detector")
