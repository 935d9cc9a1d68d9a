"""The keys of a dataclass of settings: what they are, and what `--help` says of them."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, get_args, get_type_hints

from eventful.console.options import QUIET, VERSION, end_of_help


class Leaf(NamedTuple):
    """A key that can be set; `read_by`, `also` and `within` (its `range`) as in the docstring of `train.config`."""

    path: str
    hint: Any
    default: Any
    read_by: Sequence[str]
    also: str | None
    within: str | None


def leaves(cls: Any, prefix: str = "", read_by: Sequence[str] = ()) -> Iterator[Leaf]:
    """All keys that can be set."""
    hints = get_type_hints(cls)
    for f in dataclasses.fields(cls):
        nested, readers = dataclass_of(hints[f.name]), f.metadata.get("read_by", read_by)
        if nested is not None:
            yield from leaves(nested, f"{prefix}{f.name}.", readers)
            continue
        default = f.default if f.default is not dataclasses.MISSING else None
        if f.default_factory is not dataclasses.MISSING:
            default = f.default_factory()
        yield Leaf(
            f"{prefix}{f.name}", hints[f.name], default, readers, f.metadata.get("also"), f.metadata.get("range")
        )


def dataclass_of(hint: Any) -> Any:
    """The dataclass in an annotation such as `Sub` or `Sub | None`."""
    return next((t for t in (hint, *get_args(hint)) if dataclasses.is_dataclass(t)), None)


def usage(command: str) -> str:
    """How a command is called."""
    return f"{command} [FILE.yaml] [key=value ...] [--print-config] [--quiet] [--version] [--help]"


def purpose(cls: Any) -> str:
    """What a config is for."""
    return inspect.cleandoc(cls.__doc__ or "").split("\n")[0]


def examples(cls: Any) -> list[str]:
    """Command lines under `Examples:` in the docstring of a config."""
    return _section(cls, "Examples").split("\n")


def words(cls: Any) -> list[str]:
    """What can be completed on a command line."""
    return [*(f"{leaf.path}=" for leaf in leaves(cls)), "--print-config", *QUIET[1:], VERSION, "--help"]


def help_text(cls: Any, command: str) -> str:
    """Usage, all keys with their types, defaults and docs, the options and examples."""
    lines = [f"usage: {usage(command)}", "", purpose(cls), "", "keys:"]
    for leaf in leaves(cls):
        default = "required" if leaf.default == "???" else leaf.default
        within = f" in {leaf.within}" if leaf.within else ""
        lines.append(f"  {leaf.path}: {shown(leaf.hint)}{within} = {default}")
        notes = [f"Read by {' or '.join(leaf.read_by)}."] if leaf.read_by else []
        notes += [f"Formerly {leaf.also}."] if leaf.also else []
        doc = " ".join(filter(None, (docs(cls, leaf.path.split(".")), *notes)))
        lines += [f"      {doc}"] if doc else []
    print_config = {"--print-config": "what the file and the keys come to, as a file"}
    return "\n".join([*lines, "", end_of_help(examples(cls), print_config)])


def docs(cls: Any, path: Sequence[str]) -> str:
    """The text of a key under `Attributes:` in the docstring of its class or of one it inherits from."""
    if len(path) > 1:
        return docs(dataclass_of(get_type_hints(cls)[path[0]]), path[1:])
    for base in cls.__mro__:
        found = re.search(rf"^{path[0]}: (.*(?:\n .*)*)", _section(base, "Attributes"), re.MULTILINE)
        if found:
            return " ".join(found[1].split())
    return ""


def _section(cls: Any, title: str) -> str:
    """What is indented under a title of a docstring, empty if there is none."""
    text = inspect.cleandoc(cls.__doc__ or "")
    found = re.search(rf"^{title}:\n((?:[ ]+.*\n?|\n)*)", text, re.MULTILINE)
    return inspect.cleandoc(found[1]) if found else ""


def shown(hint: Any) -> str:
    """An annotation as a user would say it."""
    if isinstance(hint, type) and not get_args(hint):
        return hint.__name__
    text = str(hint).replace("typing.", "")
    text = re.sub(r"Literal\[(.*?)\]", lambda m: m[1].replace("'", "").replace(", ", " | "), text)
    return re.sub(r"^Optional\[(.*)\]$", r"\1 | None", text)
