"""All settings of the console commands on one page: types, defaults, ranges, what reads them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import Any

from eventful.console.options import HELP
from eventful.infer.arguments import EXAMPLES, parser
from train.benchmark import BenchmarkConfig
from train.config_keys import Leaf, docs, examples, leaves, purpose, shown, usage
from train.evaluate_config import EvaluateConfig
from train.evaluation.tables import markdown
from train.train_config import TrainConfig
from train.tuning.tune_config import TuneConfig

CONFIGS: Mapping[str, Any] = {
    "eventful-train": TrainConfig,
    "eventful-evaluate": EvaluateConfig,
    "eventful-tune": TuneConfig,
    "eventful-benchmark": BenchmarkConfig,
}
INFER = "eventful-infer"
INTRODUCTION = """# Settings

Written by `python -m train.reference`, from what the code declares.

Commands that have keys take them from a YAML file, from `key=value` on the command line, which counts more, or both.
Keys of a group are written `group.key=value`, and indented under `group:` in a file; lists are `key=[a,b]`, nothing is
`null`. A key that is unknown, of the wrong type, out of its range or read by nothing is refused with one line and exit
code 2.
"""


def settings_page() -> str:
    """The page, Markdown."""
    parts = [INTRODUCTION, "Every command has these options:", _options(HELP)]
    for command, config in CONFIGS.items():
        parts += [f"## {command}", f"{purpose(config)} `{usage(command)}`", _block(examples(config)), _keys(config)]
    parts += [f"## {INFER}", *_arguments(parser(INFER))]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _options(options: Mapping[str, str]) -> str:
    return _table(["option", "what it does"], [[f"`{name}`", text] for name, text in options.items()])


def _block(lines: Sequence[str]) -> str:
    return "\n".join(["```console", *lines, "```"])


def _keys(config: Any) -> str:
    rows = [[f"`{leaf.path}`", _type(leaf), _value(leaf.default), _meaning(config, leaf)] for leaf in leaves(config)]
    return _table(["key", "type", "default", "meaning"], rows)


def _type(leaf: Leaf) -> str:
    return _without_bars(shown(leaf.hint)) + (f" in {leaf.within}" if leaf.within else "")


def _value(value: Any) -> str:
    """As it is written in a config file."""
    if value == "???":
        return "required"
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    if value is None or isinstance(value, bool):
        value = {None: "null", True: "true", False: "false"}[value]
    return f"`{value}`" if str(value) else "empty"


def _meaning(config: Any, leaf: Leaf) -> str:
    parts = [docs(config, leaf.path.split("."))]
    if leaf.read_by:
        parts.append(f"Read by {' or '.join(f'`{choice}`' for choice in leaf.read_by)}.")
    if leaf.also:
        parts.append(f"Formerly `{leaf.also}`.")
    return _without_bars(" ".join(filter(None, parts)))


def _arguments(p: argparse.ArgumentParser) -> list[str]:
    """A table for each group of arguments."""
    parts = [f"{p.description} Options, in place of keys:", _block(EXAMPLES)]
    for group in p._action_groups:
        rows = [_row(action) for action in group._group_actions if action.help != argparse.SUPPRESS]
        if rows:
            title = "" if group.title in ("options", "positional arguments") else f"{str(group.title).capitalize()}:"
            parts += [title, _table(["option", "default", "meaning"], rows)]
    for alternatives in p._mutually_exclusive_groups:
        names = ", ".join(f"`{action.option_strings[0]}`" for action in alternatives._group_actions)
        parts.append(f"{'One' if alternatives.required else 'At most one'} of {names} is given.")
    return list(filter(None, parts))


def _row(action: argparse.Action) -> list[str]:
    takes = action.metavar or ("" if action.nargs == 0 else action.dest.upper())
    names = ", ".join(action.option_strings) or action.dest
    choices = f"one of {', '.join(f'`{choice}`' for choice in action.choices)}" if action.choices else ""
    value = f"{names} {takes}" if action.option_strings and takes and not action.choices else names
    default = "required" if action.required else ("" if action.default in (None, False) else _value(action.default))
    return [f"`{value}`", default, _without_bars("; ".join(filter(None, (action.help, choices))))]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    # Not aligned: a longer text must not change every line.
    return markdown(header, rows, aligned=False)


def _without_bars(text: str) -> str:
    """A cell of a table can hold no bars."""
    return re.sub(r"\bNone\b", "null", re.sub(r" ?\| ?", " or ", text))
