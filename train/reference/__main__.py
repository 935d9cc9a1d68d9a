"""`python -m train.reference`: writes the page of all settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eventful import cli
from eventful.console.options import Parser
from eventful.disk.replaced import replace_text
from train.reference.settings import settings_page

COMMAND = "python -m train.reference"


def main(argv: Sequence[str]) -> None:
    """The command; see the module."""
    parser = Parser(COMMAND, "Writes the page of all settings, Markdown.", [f"{COMMAND} --out docs/settings.md"])
    parser.add_argument("--out", type=Path, default=Path("docs/settings.md"), help="file to write (docs/settings.md)")
    out = parser.parse_args(argv).out
    replace_text(out, settings_page())
    print(f"written to {out}")


if __name__ == "__main__":
    cli.run(COMMAND, main)
