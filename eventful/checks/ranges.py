"""Ranges of settings: declared beside each setting, and checked for all of a dataclass at once.

    lr: float = setting(2e-3, "(0, 10]")

A range is an interval, `[` and `]` with and `(` and `)` without its end. No setting may be NaN or infinite, whatever
its range.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from eventful.errors import UserError

_INTERVAL = re.compile(r"([\[(])([^,\s]+), ([^,\s]+)([\])])")

SEED = "[0, 4294967295]"
THREADS = "[0, 1024]"
"""0 for torch's choice; beyond, more threads than any machine has."""


def setting(default: Any, within: str, **metadata: Any) -> Any:
    """A field of a dataclass whose value, or each of whose values, lies in a range.

    Args:
        default: Its default; None for a value that need not be given. A list is copied for each instance.
        within: The range, such as `[0, 1)` or `[1, inf)`.
        **metadata: Further metadata of the field.

    Raises:
        ValueError: If the range is none.
    """
    _ends(within)
    facts = {"range": within, **metadata}
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=facts)
    return dataclasses.field(default=default, metadata=facts)


def check_ranges(settings: Any, prefix: str = "") -> None:
    """Looks at all numbers of a dataclass, nested ones, lists and tables included.

    Args:
        settings: An instance of a dataclass.
        prefix: What stands before the names of its fields in messages, such as `oracle.`.

    Raises:
        UserError: Naming the setting, what it may be, and what it is.
    """
    for field in dataclasses.fields(settings):
        _check(f"{prefix}{field.name}", getattr(settings, field.name), field.metadata.get("range"))


def _check(name: str, value: Any, within: str | None) -> None:
    if dataclasses.is_dataclass(value):
        check_ranges(value, f"{name}.")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _check(f"{name}.{key}", inner, within)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check(name, inner, within)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        problem = _problem(value, within)
        if problem:
            raise UserError(f"{name} must be {problem}, got {value}")


def _problem(value: float, within: str | None) -> str:
    """What a number fails to be; empty if nothing."""
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    if within is None:
        return ""
    low, with_low, high, with_high = _ends(within)
    if value < low or (value == low and not with_low):
        return f"{'at least' if with_low else 'above'} {low:.10g}"
    if value > high or (value == high and not with_high):
        return f"{'at most' if with_high else 'below'} {high:.10g}"
    return ""


@cache
def _ends(within: str) -> tuple[float, bool, float, bool]:
    """Ends of an interval, each with whether it belongs to it."""
    parts = _INTERVAL.fullmatch(within)
    if parts is None or not float(parts[2]) <= float(parts[3]):
        raise ValueError(f"{within!r} is no interval, such as '[0, 1)'")
    return float(parts[2]), parts[1] == "[", float(parts[3]), parts[4] == "]"
