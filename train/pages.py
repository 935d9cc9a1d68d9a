"""Pages that are part written, part computed: figures between two marks are replaced, the text around them is kept."""

from __future__ import annotations

from pathlib import Path

from eventful.disk.replaced import replace_text
from eventful.errors import UserError

BEGIN, END = "<!-- figures -->", "<!-- /figures -->"


def replace_figures(path: Path, text: str, title: str | None = None) -> None:
    """Writes a text between the marks of a page.

    Args:
        path: Path of the page, Markdown.
        text: What is to stand between its marks.
        title: Title of a new page if there is none yet; None if there must be one.

    Raises:
        UserError: If there is no page, or it lacks the marks.
    """
    if title is not None and not path.exists():
        page = f"# {title}\n\n{BEGIN}\n{END}\n"
    else:
        page = path.read_text() if path.exists() else ""
    if BEGIN not in page or END not in page:
        raise UserError(f"{path} has no lines {BEGIN} and {END} to write the figures between")
    head, tail = page.split(BEGIN)[0], page.split(END)[1]
    replace_text(path, f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}")
