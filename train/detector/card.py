"""The figures of the detector's model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from envs.doom.labels import CLASS_NAMES


def write_card(path: Path, options: Mapping[str, object], scores: dict[str, dict[str, float]]) -> None:
    """Writes the figures between the marks of the card; the text around them is kept.

    Args:
        path: Path of the card.
        options: Settings of the training, by name.
        scores: Results of `train.detector.score.score` by split; `test` gives the figures by class.

    Raises:
        ValueError: If the card lacks the marks.
    """
    begin, end = "<!-- figures -->", "<!-- /figures -->"
    card = path.read_text()
    if begin not in card or end not in card:
        raise ValueError(f"{path} has no lines {begin} and {end} to write the figures between")
    command = " ".join(f"{key}={value}" for key, value in options.items())
    columns = ("mAP50", "later", "stale")
    lines = [f"Options: `{command}`", ""]
    lines += ["| split | mAP50 | same, from second 1 | stale by 1 s |", "|---|---|---|---|"]
    for split, row in scores.items():
        lines.append(f"| {split} | " + " | ".join(f"{row[column]:.3f}" for column in columns) + " |")
    lines += ["", "AP50 by class on `test`:", "", "| class | AP50 |", "|---|---|"]
    lines += [f"| {name} | {scores['test'][name]:.3f} |" for name in CLASS_NAMES if name in scores["test"]]
    head, tail = card.split(begin)[0], card.split(end)[1]
    path.write_text("\n".join([head + begin, "", *lines, "", end]) + tail)
