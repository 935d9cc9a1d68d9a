"""The notebook runs from top to bottom, and prints what is stored in it."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


def printed(notebook: NotebookNode) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def pictures(notebook: NotebookNode) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_it_prints_what_is_stored() -> None:
    stored, run = (nbformat.read(NOTEBOOK, as_version=4) for _ in range(2))
    NotebookClient(run, timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    # Sums in another order come to another last digit.
    numbers, words = r"\d+(?:\.\d+)?", lambda text: re.sub(r"[\d.\s]+", " ", text)
    assert words(printed(run)) == words(printed(stored))
    then, now = (list(map(float, re.findall(numbers, printed(notebook)))) for notebook in (stored, run))
    assert now == pytest.approx(then, rel=0.03)
    assert pictures(run) == pictures(stored) == 3


def test_it_is_stored_as_it_was_run_at_once_and_small() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(output.output_type != "error" for cell in code for output in cell.outputs)
    assert NOTEBOOK.stat().st_size < 1e6
