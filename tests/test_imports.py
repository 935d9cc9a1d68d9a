"""Imports go one way: policies <- eventful <- envs <- train. Top-level folders are the fixed ones."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("policies", "eventful", "envs", "train")
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imported_layers(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names & set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    layer = LAYERS.index(path.relative_to(ROOT).parts[0])
    above = imported_layers(path) & set(LAYERS[layer + 1 :])
    assert not above, f"{path.relative_to(ROOT)} imports {', '.join(sorted(above))} from above"


def test_the_rule_sees_every_layer() -> None:
    for layer in LAYERS[1:]:
        used = set().union(*(imported_layers(path) for path in (ROOT / layer).rglob("*.py")))
        assert used - {layer}, f"{layer} imports nothing from below: is the test looking at the right files?"
