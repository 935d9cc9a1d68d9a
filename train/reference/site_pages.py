"""Hooks of the documentation site (`mkdocs.yml`): pages whose home is elsewhere in the repository are part of it.

Links are written as they work in the repository. Where one leads out of `docs/`, to a page that the site has, it is
turned to that page; all others are left as they are, for the strict build to complain about.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ELSEWHERE = {
    "README.md": "readme.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "envs/doom/weights/README.md": "cards/detector.md",
    "envs/doom/weights/policy/README.md": "cards/policy.md",
    "envs/doom/weights/verbs/README.md": "cards/verbs.md",
    "envs/doom/weights/vitdet/README.md": "cards/vitdet.md",
}
"""Pages by their place in the repository, and in the site."""

_AT_HOME = {there: here for here, there in ELSEWHERE.items()}
_LINK = re.compile(r"(?<=\]\()(?P<path>[^\s():#]+)(?P<anchor>#[^\s()]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that lie elsewhere."""
    root = Path(config.docs_dir).parent
    for here, there in ELSEWHERE.items():
        files.append(File.generated(config, there, abs_src_path=str(root / here)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turns the links of a page."""
    return in_site(markdown, page.file.src_uri)


def on_page_content(html: str, page: Page, **_: object) -> str:
    """Turns the links of a notebook, whose Markdown does not pass through mkdocs."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    return re.sub(r'(?<=href=")([\w./-]+)\.md(?=[#"])', r"\1.html", html)


def in_site(markdown: str, uri: str) -> str:
    """A page's text with links as the site has them.

    Args:
        markdown: The text.
        uri: Place of the page in the site.
    """
    home = _AT_HOME.get(uri, f"docs/{uri}")

    def turned(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(home), link["path"]))
        there = ELSEWHERE.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        if there is None:
            return link[0]
        return posixpath.relpath(there, posixpath.dirname(uri) or ".") + (link["anchor"] or "")

    return _LINK.sub(turned, markdown)
