"""The keys of a dataclass of settings: what they are, and what `--help` says of them."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, get_args, get_type_hints


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
    return f"{command} [FILE.yaml] [key=value ...] [--print-config] [--help] [--version]"


class Documented(NamedTuple):
    """A key as a user is told of it: type, range (empty for none), default, and what it means."""

    path: str
    kind: str
    within: str
    default: Any
    required: bool
    text: str


def documented(cls: Any) -> Iterator[Documented]:
    """All keys that can be set, with what the docstrings say of them and when they are read."""
    for leaf in leaves(cls):
        notes = [f"Read by {' or '.join(leaf.read_by)}."] if leaf.read_by else []
        notes += [f"Formerly {leaf.also}."] if leaf.also else []
        text = " ".join(filter(None, (_docs(cls, leaf.path.split(".")), *notes)))
        yield Documented(leaf.path, shown(leaf.hint), leaf.within or "", leaf.default, leaf.default == "???", text)


def help_text(cls: Any, command: str) -> str:
    """Usage, and all keys with their types, defaults and docs."""
    lines = [f"usage: {usage(command)}", "", inspect.cleandoc(cls.__doc__ or "").split("\n")[0], "", "keys:"]
    for key in documented(cls):
        within = f" in {key.within}" if key.within else ""
        lines.append(f"  {key.path}: {key.kind}{within} = {'required' if key.required else key.default}")
        lines += [f"      {key.text}"] if key.text else []
    return "\n".join(lines)


def _docs(cls: Any, path: Sequence[str]) -> str:
    """The text of a key under `Attributes:` in the docstring of its class or of one it inherits from."""
    if len(path) > 1:
        return _docs(dataclass_of(get_type_hints(cls)[path[0]]), path[1:])
    for base in cls.__mro__:
        section = re.search(r"^Attributes:\n((?:[ ]+.*\n?|\n)*)", inspect.cleandoc(base.__doc__ or ""), re.MULTILINE)
        found = section and re.search(rf"^ {{4}}{path[0]}: (.*(?:\n {{5,}}.*)*)", section[1], re.MULTILINE)
        if found:
            return " ".join(found[1].split())
    return ""


def shown(hint: Any) -> str:
    """An annotation as a user would say it."""
    if isinstance(hint, type) and not get_args(hint):
        return hint.__name__
    text = str(hint).replace("typing.", "")
    return re.sub(r"Literal\[(.*?)\]", lambda m: m[1].replace("'", "").replace(", ", " | "), text)
