"""A user's own `policies.py` or `envs/` in front of this package's: one line says which file is in the way."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import policies
from eventful.checks.shadowing import HOME, refuse_shadows
from eventful.errors import UserError
from eventful.tasks import load_task


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of the user's own, imported as `envs`."""
    path = tmp_path / "envs.py"
    path.write_text("")
    spec = importlib.util.spec_from_file_location("envs", path)
    monkeypatch.setitem(sys.modules, "envs", importlib.util.module_from_spec(spec))
    for name in [name for name in sys.modules if name.startswith("envs.")]:
        monkeypatch.delitem(sys.modules, name)
    return path


def test_what_is_ours_passes() -> None:
    refuse_shadows("policies", "eventful", "envs", "train", "no_such_package")


def test_what_shadows_what_is_said(own: Path) -> None:
    with pytest.raises(ImportError) as caught:
        refuse_shadows("policies", "envs")
    assert str(own) in str(caught.value) and str(HOME / "envs") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tasks_and_checkpoints_by_name_say_it_in_one_line(own: Path) -> None:
    with pytest.raises(UserError, match=r"task distill cannot be imported: .*envs\.py is imported in place of"):
        load_task("distill", model="test_vit")
    with pytest.raises(policies.CheckpointError, match="checkpoint doom cannot be imported"):
        policies.load("doom")


@pytest.mark.parametrize("name", ["policies.py", "policies/__init__.py"])
def test_the_import_of_the_package_says_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import eventful"
    done = subprocess.run([sys.executable, "-c", code], cwd=HOME, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: {tmp_path / name} is imported in place of the package 'policies'")
