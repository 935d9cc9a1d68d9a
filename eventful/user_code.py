"""Functions and classes of the user's own, named `MODULE:NAME`.

Modules are looked for in the working directory too. Importing runs their code: only names that the user has given
come here, never those that stand in a file from elsewhere, such as a checkpoint.
"""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

from eventful.cli import one_line
from eventful.errors import UserError
from policies import LearnedPolicy, TrainablePolicy

LEARNED = "learned"
"""Name of this package's own policy, `policies.LearnedPolicy`."""


def is_user_code(name: str) -> bool:
    """Whether a name stands for code of the user's own, rather than for something that is installed."""
    return ":" in name


def load_user_code(name: str, setting: str, kind: str = "function") -> Callable[..., Any]:
    """Imports what a name stands for.

    Args:
        name: Name of the code, `MODULE:NAME`.
        setting: Name of the setting that holds it, such as `policies`, with which messages begin.
        kind: Kind of the code: `function` or `class`.

    Raises:
        UserError: If the name has another form, its module cannot be imported, or there is no such thing in it.
    """
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
        raise UserError(f"{setting}: {name!r} must be MODULE:{kind.upper()}, such as my_module:mine")
    module_name, _, attribute = name.partition(":")
    if "" not in sys.path:
        # A console script's own folder stands in the place of the working directory.
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        # Whatever a module raises while it is imported: the line names where.
        raise UserError(
            f"{setting}: {name}: module {module_name!r} cannot be imported: {_problem(error, module_name)}"
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise UserError(f"{setting}: {name}: module {module_name!r} has no {kind} {attribute!r}")
    return found


def policy_class(name: str, setting: str) -> type[TrainablePolicy]:
    """The class of a policy.

    Args:
        name: Name of the class: `learned`, or `MODULE:CLASS` of the user's own.
        setting: Name of the setting that holds it, with which messages begin.

    Raises:
        UserError: If there is no such class, or it is none that can be trained.
    """
    if name == LEARNED:
        return LearnedPolicy
    if not is_user_code(name):
        raise UserError(f"{setting}: {name!r} must be {LEARNED}, or MODULE:CLASS of a policies.TrainablePolicy")
    found = load_user_code(name, setting, "class")
    if not (isinstance(found, type) and issubclass(found, TrainablePolicy)):
        raise UserError(f"{setting}: {name} is no subclass of policies.TrainablePolicy")
    return found


def _problem(error: Exception, module_name: str) -> str:
    """An error of an import, and where it happened unless it is that there is no such module."""
    if isinstance(error, SyntaxError) or (isinstance(error, ModuleNotFoundError) and error.name == module_name):
        return one_line(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {one_line(error)} ({last.filename}, line {last.lineno})"
