"""The house: imports go one way between packages and in no circles between rooms; rooms and files stay small; the index
of CONTRIBUTING leads where it says."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("policies", "eventful", "envs", "train")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
INDEX = re.findall(r"^\|[^|]*\| `([\w/]+\.py): (\w+)` \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.M)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imported_modules(path: Path) -> set[str]:
    """Modules of this project that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= submodules if submodules and node.module in PACKAGES else {node.module} | submodules
    return found & MODULES.keys()


def room_of(module: str) -> str:
    """A subfolder, or a flat file."""
    path = MODULES[module]
    parts = path.relative_to(ROOT).parts
    return "/".join(parts[:2]) if len(parts) > 2 else str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    layer = PACKAGES.index(path.relative_to(ROOT).parts[0])
    above = {module.split(".")[0] for module in imported_modules(path)} & set(PACKAGES[layer + 1 :])
    assert not above, f"{path.relative_to(ROOT)} imports {', '.join(sorted(above))} from above"


def test_rooms_import_each_other_in_no_circle() -> None:
    rooms: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        if path.name == "__init__.py" and path.parent.name in PACKAGES:
            continue  # a package's face hands names on
        needs = {room_of(m) for m in imported_modules(path) if m not in PACKAGES}
        rooms.setdefault(room_of(module), set()).update(needs - {room_of(module)})
    try:
        order = list(TopologicalSorter(rooms).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1]))
    assert order.index("eventful/attention") < order.index("eventful/gates.py") < order.index("eventful/model.py")


def test_the_rule_sees_every_layer() -> None:
    for package in PACKAGES[1:]:
        used = {m.split(".")[0] for path in (ROOT / package).rglob("*.py") for m in imported_modules(path)}
        assert used - {package}, f"{package} imports nothing from below: is the test looking at the right files?"


def test_folders_and_files_are_small() -> None:
    tests = list((ROOT / "tests").rglob("*.py"))
    for folder in {path.parent for path in [*FILES, *tests]}:
        assert len(list(folder.glob("*.py"))) <= 16, folder
    long = {str(p.relative_to(ROOT)): n for p in [*FILES, *tests] if (n := len(p.read_text().splitlines())) > 300}
    assert not long, long


@pytest.mark.parametrize(("path", "name"), INDEX)
def test_the_index_leads_where_it_says(path: str, name: str) -> None:
    defined = {getattr(node, "name", None) for node in ast.parse((ROOT / path).read_text()).body}
    assert name in defined


def test_the_index_is_there() -> None:
    assert len(INDEX) >= 15


def test_every_room_is_described() -> None:
    rooms = {f"{path.parent.name}/" for path in FILES}
    described = (ROOT / "CONTRIBUTING.md").read_text().split("## The rooms")[1].split("## Where is")[0]
    assert all(re.search(rf"^ *{re.escape(room)} ", described, re.M) for room in rooms), rooms
