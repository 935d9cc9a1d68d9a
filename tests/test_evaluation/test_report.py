"""The report of several evaluations: read from their files alone, and brought up to date in place."""

from pathlib import Path

import pytest
from evaluation_tiny import checkpoint, config
from squares_task import Squares

from eventful.errors import UserError
from train import pages
from train.evaluate import evaluate
from train.evaluation.results_file import read_finished
from train.report.__main__ import _main as report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place, task = tmp_path_factory.mktemp("evaluated"), Squares()
    asked = config(place, policy=checkpoint(task, place / "policy"), policies=["Learned", "TopR"])
    evaluate(asked, task)
    return place / "out"


def page(folder: Path, out: Path) -> str:
    report([f"evaluations.Small squares={folder}", f"out={out}"])
    return out.read_text()


def test_it_says_what_the_evaluation_itself_says(folder: Path, tmp_path: Path):
    found = page(folder, tmp_path / "page.md")
    said = (folder / "summary.md").read_text()
    lines = [line for line in said.splitlines() if line.startswith("| learned")]
    assert lines
    assert all(line in found for line in lines)
    assert "(images/small-squares.png)" in found
    assert (tmp_path / "images" / "small-squares.png").stat().st_size > 1000


def test_a_goal_that_both_sides_meet_at_once_has_no_ratio(folder: Path, tmp_path: Path):
    report([f"evaluations.Squares={folder}", f"out={tmp_path / 'page.md'}", "tolerances=[0.99]"])
    (row,) = [line for line in (tmp_path / "page.md").read_text().splitlines() if "the best of all rules" in line]
    assert "| both, with the smallest share tried |" in row
    assert "that does not look" not in (tmp_path / "page.md").read_text(), "no rule looks: the best of all is that one"


def test_what_stands_around_the_marks_is_kept(folder: Path, tmp_path: Path):
    out = tmp_path / "page.md"
    out.write_text(f"# Ours\n\nbefore\n\n{pages.BEGIN}\nyesterday\n{pages.END}\n\nafter\n")
    found = page(folder, out)
    assert found.startswith("# Ours\n\nbefore")
    assert found.endswith("after\n")
    assert "yesterday" not in found
    assert page(folder, out) == found


def test_a_page_without_marks_is_not_overwritten(folder: Path, tmp_path: Path):
    out = tmp_path / "page.md"
    out.write_text("mine")
    with pytest.raises(UserError, match="has no lines <!-- figures -->"):
        page(folder, out)
    assert out.read_text() == "mine"


def test_evaluations_that_have_not_begun_or_ended_are_told(folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no finished runs"):
        read_finished(tmp_path)
    lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_text("".join(line for line in lines if '"Nothing"' not in line))
    with pytest.raises(UserError, match="no run of Nothing"):
        page(tmp_path, tmp_path / "page.md")
    with pytest.raises(UserError, match="no evaluations"):
        report([])


def test_contenders_that_are_not_finished_are_left_out_and_named(folder: Path, tmp_path: Path):
    rows = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    first = next(k for k, row in enumerate(rows) if '"contender": "TopR", "budget": 0.5' in row)
    (tmp_path / "results.jsonl").write_text("".join(rows[:first] + rows[first + 1 :]))
    found = page(tmp_path, tmp_path / "page.md")
    assert "- left out, as not finished: TopR" in found
    assert "| top-r" not in found
