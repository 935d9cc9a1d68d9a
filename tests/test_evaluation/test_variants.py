"""What single things are worth: evaluations of other trainings, compared with a reference resample by resample."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evaluation_tiny import checkpoint, config
from squares_task import Squares

from eventful.errors import UserError
from train.evaluate import evaluate
from train.report.__main__ import _main as report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place, task = tmp_path_factory.mktemp("evaluated"), Squares()
    evaluate(config(place, policy=checkpoint(task, place / "policy"), policies=["Learned"]), task)
    return place / "out"


def changed(folder: Path, out: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of an evaluation with its runs changed."""
    head, *rows = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
    for row in rows:
        change(row)
    out.mkdir()
    (out / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [head, *rows]))
    return out


def row_of(page: Path, title: str) -> list[str]:
    (line,) = [line for line in page.read_text().splitlines() if line.startswith(f"| {title} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_variant_differs_by_what_its_runs_differ_by(folder: Path, tmp_path: Path):
    def better(row: dict[str, Any]) -> None:
        if row["kind"] == "run" and row["key"]["contender"] in ("Learned", "Nothing"):
            row["metric_R"] = [value + 0.25 for value in row["metric_R"]]

    better_one = changed(folder, tmp_path / "better", better)
    page = tmp_path / "page.md"
    variants = [f"variants.the same={folder}", f"variants.better={better_one}"]
    report([f"evaluations.Squares={folder}", f"reference={folder}", *variants, f"out={page}", "tolerances=[0.99]"])
    same, better_row = row_of(page, "the same"), row_of(page, "better")
    gaps = len(row_of(page, "the policy")) - 3
    assert same[1 : 1 + gaps] == ["+0 [+0, +0]"] * gaps
    assert same[-1] == "1.00 [1.00, 1.00]"
    assert better_row[1] == "+0.25 [+0.25, +0.25]", "20 % lie between two of its points"


def test_a_specialist_is_compared_at_its_own_compute_and_its_own_quality(folder: Path, tmp_path: Path):
    page = tmp_path / "page.md"
    one = changed(folder, tmp_path / "one", lambda row: None)
    rows = (one / "results.jsonl").read_text().splitlines(keepends=True)
    others = [row for row in rows if '"contender": "Learned", "budget": 0.5' in row]
    assert others
    (one / "results.jsonl").write_text("".join(row for row in rows if row not in others))
    report([f"evaluations.Squares={folder}", f"reference={folder}", f"specialists.one={one}", f"out={page}"])
    _, _, _, gap, over = row_of(page, "one")
    assert gap == "+0 [+0, +0]", "it is a point of the reference's own"
    assert over.startswith("1.00 ")


def test_evaluations_that_cannot_be_compared_are_refused(folder: Path, tmp_path: Path):
    def other_clips(row: dict[str, Any]) -> None:
        if row["kind"] == "run":
            row["clips"] = [f"other {name}" for name in row["clips"]]

    elsewhere = changed(folder, tmp_path / "elsewhere", other_clips)
    given = [f"evaluations.Squares={folder}", f"variants.elsewhere={elsewhere}", f"out={tmp_path / 'page.md'}"]
    with pytest.raises(UserError, match="give reference=FOLDER"):
        report(given)
    with pytest.raises(UserError, match="elsewhere: not the clips, resamples or dense model of the policy"):
        report([*given, f"reference={folder}"])
    rows = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    none = tmp_path / "none"
    none.mkdir()
    (none / "results.jsonl").write_text("".join(row for row in rows if '"Learned"' not in row))
    with pytest.raises(UserError, match="none: the evaluation has no finished runs of Learned"):
        report([given[0], given[2], f"reference={folder}", f"variants.none={none}"])
