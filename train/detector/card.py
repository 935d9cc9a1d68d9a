"""The figures of the detector's model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from envs.doom.labels import CLASS_NAMES
from train.pages import replace_figures


def write_card(path: Path, options: Mapping[str, object], scores: dict[str, dict[str, float]]) -> None:
    """Writes the figures between the marks of the card; the text around them is kept.

    Args:
        path: Path of the card.
        options: Settings of the training, by name.
        scores: Results of `train.detector.score.score` by split; `test` gives the figures by class.

    Raises:
        UserError: If the card lacks the marks.
    """
    command = " ".join(f"{key}={value}" for key, value in options.items())
    columns = ("mAP50", "later", "stale")
    lines = [f"Options: `{command}`", ""]
    lines += ["| split | mAP50 | same, from second 1 | stale by 1 s |", "|---|---|---|---|"]
    for split, row in scores.items():
        lines.append(f"| {split} | " + " | ".join(f"{row[column]:.3f}" for column in columns) + " |")
    lines += ["", "AP50 by class on `test`:", "", "| class | AP50 |", "|---|---|"]
    lines += [f"| {name} | {scores['test'][name]:.3f} |" for name in CLASS_NAMES if name in scores["test"]]
    replace_figures(path, "\n".join(lines))
