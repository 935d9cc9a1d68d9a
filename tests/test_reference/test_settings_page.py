"""The page of all settings is what the code declares."""

import re
from pathlib import Path

import pytest

from eventful.infer.arguments import parser
from train.config_keys import leaves
from train.reference.__main__ import main
from train.reference.settings import CONFIGS, settings_page

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def section(command: str) -> str:
    return PAGE.read_text().split(f"\n## {command}\n")[1].split("\n## ")[0]


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == settings_page(), "python -m train.reference"


@pytest.mark.parametrize("command", CONFIGS)
def test_every_key_has_a_row_of_four_cells(command: str) -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", section(command), re.M)
    declared = {leaf.path: leaf for leaf in leaves(CONFIGS[command])}
    assert [row[0] for row in rows] == list(declared)
    for key, kind, default, meaning in rows:
        within = declared[key].within
        assert within is None or kind.endswith(f" in {within}")
        assert default.strip() and meaning.strip()


def test_every_argument_of_inference_has_a_row() -> None:
    text = section("eventful-infer")
    options = {name for action in parser("eventful-infer")._actions for name in action.option_strings}
    for option in options - {"-h", "--help", "--print-completion"}:
        assert re.search(rf"^\| `(?:.*, )?{option}\b.*\|$", text, re.M), option
    assert "\nOne of `--policy`, `--heuristic` is given.\n" in text


def test_the_command_writes_the_page(tmp_path: Path, capsys) -> None:
    main(["--out", str(tmp_path / "settings.md")])
    assert (tmp_path / "settings.md").read_text() == settings_page()
    assert "settings.md" in capsys.readouterr().out
