"""Options that every console command takes, and the end of every `--help`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NoReturn

from eventful.errors import UserError

QUIET, VERSION, COMPLETION = ("-q", "--quiet"), "--version", "--print-completion"
HELP = {
    "-h, --help": "this text",
    "-q, --quiet": "results, warnings and errors alone: no progress",
    VERSION: "version of the package, and of torch and timm",
    COMPLETION: "a line for the start-up file of bash, or of zsh after bashcompinit, that completes names on TAB",
}
"""What the common options do."""


def split_common(argv: Sequence[str]) -> tuple[list[str], bool, bool]:
    """Arguments without `--quiet` and `--version`, and whether these were among them. What is behind `--` stays."""
    end = argv.index("--") if "--" in argv else len(argv)
    own = [word for word in argv[:end] if word not in (*QUIET, VERSION)]
    return [*own, *argv[end:]], any(word in argv[:end] for word in QUIET), VERSION in argv[:end]


def versions() -> str:
    """The package and its version, and those of the libraries on which results depend most."""
    return f"eventful-policies {version('eventful-policies')} (torch {version('torch')}, timm {version('timm')})"


def end_of_help(examples: Sequence[str] = (), more: dict[str, str] | None = None) -> str:
    """The options that all commands have, and examples.

    Args:
        examples: Command lines.
        more: Further options, and what they do.
    """
    options = {**(more or {}), **HELP}
    width = max(map(len, options))
    lines = ["options:", *(f"  {name:{width}}  {text}" for name, text in options.items())]
    lines += ["", "examples:", *(f"  {line}" for line in examples)] if examples else []
    return "\n".join(lines)


def completion(command: str, words: Sequence[str]) -> str:
    """The line of a shell that completes a command's words, and names of files.

    Raises:
        UserError: If the command has several words, such as `python -m train.report`: shells go by the first.
    """
    if " " in command:
        raise UserError(f"{COMPLETION} is for the console commands, such as eventful-train, not for {command}")
    return f"complete -o default -o nospace -W '{' '.join(words)}' {command}"


class Parser(argparse.ArgumentParser):
    """Parser of a command with options: bad arguments are one line, as in all commands, and its help has examples."""

    def __init__(self, command: str, description: str, examples: Sequence[str]) -> None:
        super().__init__(
            prog=command,
            description=description,
            epilog=end_of_help(examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        self.examples = examples
        self.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
        self.add_argument(COMPLETION, action=_PrintCompletion, help=argparse.SUPPRESS)

    def error(self, message: str) -> NoReturn:
        """Raises the message as a `UserError`."""
        raise UserError(f"{message} (see {self.prog} --help)")


class _PrintCompletion(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> NoReturn:
        words = [word for action in parser._actions for word in action.option_strings if word.startswith("--")]
        print(completion(parser.prog, [*words, QUIET[1], VERSION]))
        parser.exit()
