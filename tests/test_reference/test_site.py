"""The site builds without a warning, every page is in its navigation, and nothing is fetched from elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest

from train.reference.site_pages import ELSEWHERE, in_site

ROOT = Path(__file__).parents[2]
NAV = re.findall(r"^ +- .*: (\S+\.(?:md|ipynb))$", (ROOT / "mkdocs.yml").read_text().split("\nvalidation:")[0], re.M)


def build(root: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--config-file",
        str(root / "mkdocs.yml"),
        "--site-dir",
        str(out),
    ]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT, out)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Path]:
    """The repository with pages of its own, to break."""
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in ("docs", "tests", "runs", "site"):
            (tmp_path / path.name).symlink_to(path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    yield tmp_path


def test_every_page_is_in_the_navigation_once() -> None:
    pages = [
        str(path.relative_to(ROOT / "docs")) for kind in ("md", "ipynb") for path in (ROOT / "docs").rglob(f"*.{kind}")
    ]
    assert sorted(NAV) == sorted([*pages, *ELSEWHERE.values()])


def test_it_builds_without_a_warning(site: Path) -> None:
    for page in NAV:
        assert (site / page).with_suffix(".html").stat().st_size > 1000


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        fetched = re.findall(
            r"<(?:script|img|iframe)\b[^>]*src=\"?(https?:[^\s\">]+)|<link\b[^>]*href=\"?(https?:[^\s\">]+)",
            page.read_text(),
        )
        assert not fetched, page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?https?:", sheet.read_text()), sheet


def test_every_link_of_the_built_pages_leads_somewhere(site: Path) -> None:
    """Those of notebooks and docstrings, too, which mkdocs does not look at."""
    ids = {page: set(re.findall(r"\bid=\"?([^\s\">]+)", page.read_text())) for page in site.rglob("*.html")}
    for page in ids:
        if page.name == "404.html":
            continue  # its links are absolute
        for target in re.findall(r"<a\b[^>]*\bhref=\"?([^\s\">]+)", page.read_text()):
            path, _, anchor = unescape(target).partition("#")
            if re.match(r"[a-z]+:", path):
                continue
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), f"{page.name}: {target}"
            assert not anchor or there.suffix != ".html" or unquote(anchor) in ids[there] | {"__top"}, (
                f"{page}: {target}"
            )


def test_the_api_is_there(site: Path) -> None:
    text = (site / "api.html").read_text()
    for name in ("eventful.wrap", "policies.LearnedPolicy", "envs.task.VideoTask", "eventful.errors.UserError"):
        assert f'id="{name}"' in text
    assert "scene_cut" in text and "Flushes a stream by itself" in text


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("[here](nowhere.md)", "nowhere.md"),
        ("[here](concepts.md#no-such-part)", "no-such-part"),
        ("[here](../train/policy.py)", "train/policy.py"),
        ("![here](images/none.png)", "none.png"),
    ],
    ids=["page", "anchor", "out of the site", "picture"],
)
def test_a_dead_link_is_fatal(copy: Path, tmp_path: Path, line: str, complaint: str) -> None:
    with (copy / "docs" / "index.md").open("a") as file:
        file.write(f"\n{line}\n")
    done = build(copy, tmp_path / "out")
    assert done.returncode == 1 and complaint in done.stderr


def test_links_are_turned_to_where_pages_are_in_the_site() -> None:
    assert in_site("[a](../README.md#limits)", "concepts.md") == "[a](readme.md#limits)"
    assert in_site("[a](docs/tasks.md), ![b](docs/images/c.png)", "readme.md") == "[a](tasks.md), ![b](images/c.png)"
    assert in_site("[a](../README.md)", "cards/policy.md") == "[a](detector.md)"
    assert in_site("[a](../../../../docs/results.md#x)", "cards/policy.md") == "[a](../results.md#x)"
    assert in_site("[a](https://example.org/b.md)", "index.md") == "[a](https://example.org/b.md)"
