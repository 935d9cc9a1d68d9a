"""`python -m train.report`: tables and frontiers of several evaluations on one page.

    python -m train.report out=docs/results.md 'evaluations.Unseen seeds=runs/test' 'evaluations.Unseen maps=runs/maps'

Reads the evaluations' `results.jsonl` alone; an evaluation that has gone on since is brought up to date by the same
command. The pictures go into a folder beside the page; the page is kept but for its figures (`train.pages`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eventful import cli
from eventful.checks.extras import require
from eventful.checks.ranges import setting
from eventful.errors import UserError
from train.config import load_config
from train.evaluation.plots import plot_frontier
from train.evaluation.results_file import read_finished
from train.pages import replace_figures
from train.report.finished import about, comparison_of
from train.report.page import report, slug
from train.report.variants import trained, variants_section

COMMAND = "python -m train.report"


@dataclass
class ReportConfig:
    """A page of several evaluations.

    Attributes:
        evaluations: Folders of evaluations by title, as `evaluations.TITLE=FOLDER`.
        out: Path of the page, Markdown.
        tolerances: Losses against the dense model that count as none: relative for a metric, absolute for a distance.
        reference: Folder of an evaluation of one learned policy, with which variants and specialists are compared.
        reference_title: What it is called.
        variants: Folders of evaluations of policies that differ from it in one thing, as `variants.TITLE=FOLDER`.
        specialists: Folders of evaluations of policies for one budget each, as `specialists.TITLE=FOLDER`.

    Examples:
        python -m train.report out=runs/results.md 'evaluations.Seeds=runs/test' 'evaluations.Maps=runs/maps'
        python -m train.report evaluations.All=runs/test reference=runs/one 'variants.no saliency=runs/without'
    """

    evaluations: dict[str, str] = field(default_factory=dict)
    out: str = "runs/results.md"
    tolerances: list[float] = setting([0.01, 0.03], "(0, 1)")
    reference: str = ""
    reference_title: str = "the policy"
    variants: dict[str, str] = field(default_factory=dict)
    specialists: dict[str, str] = field(default_factory=dict)


def _main(argv: Sequence[str]) -> None:
    config = load_config(ReportConfig, argv, COMMAND)
    require(COMMAND, "plot")
    if not config.evaluations:
        raise UserError("no evaluations: give evaluations.TITLE=FOLDER")
    finished = {title: read_finished(Path(folder)) for title, folder in config.evaluations.items()}
    comparisons = {title: comparison_of(found, config.tolerances) for title, found in finished.items()}
    out = Path(config.out)
    pictures = out.parent / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    for title, comparison in comparisons.items():
        plot_frontier(comparison, title, pictures / f"{slug(title)}.png")
    lines = {title: about(found) for title, found in finished.items()}
    text = report(comparisons, lines, pictures.name, _trainings(config))
    replace_figures(out, text, title="Results")
    print(f"written to {out}, pictures to {pictures}")


def _trainings(config: ReportConfig) -> str:
    """What single things are worth; empty if nobody asks.

    Raises:
        UserError: If an evaluation is not of the reference's clips, or there is no reference.
    """
    if not (config.variants or config.specialists):
        return ""
    if not config.reference:
        raise UserError("variants and specialists are compared with a reference: give reference=FOLDER")
    reference = trained(config.reference_title, read_finished(Path(config.reference)), config.tolerances)
    rows = [
        [trained(title, read_finished(Path(folder)), config.tolerances, reference) for title, folder in folders.items()]
        for folders in (config.variants, config.specialists)
    ]
    return variants_section(reference, *rows)


if __name__ == "__main__":
    cli.run(COMMAND, _main)
