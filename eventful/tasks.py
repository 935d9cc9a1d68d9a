"""Finds video tasks: by name, through the entry points `eventful.tasks`, or a class of the user's own, `MODULE:CLASS`.

The runtime does not import the tasks of `envs`; it asks for them by name. A package adds a task of its own with

    [options.entry_points]
    eventful.tasks =
        mine = my_package.my_task:MyTask

where `MyTask(**options)` implements `envs.task.VideoTask`.
"""

from __future__ import annotations

import difflib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Protocol

from torch import Tensor, nn

from eventful.checks.shadowing import DISTRIBUTION, refuse_shadows
from eventful.cli import one_line, user_input
from eventful.errors import UserError
from eventful.stream_checks import Saliency
from eventful.user_code import is_user_code, load_user_code

GROUP = "eventful.tasks"
PARTS = ("name", "model", "class_names", "preprocess", "predictions")
"""Names of what every task has."""


class Task(Protocol):
    """What inference needs of a task; `envs.task.VideoTask` has it.

    Attributes:
        name: Short name of the task.
        model: The frozen dense model.
        class_names: Names of the predicted classes, empty if there are none.
    """

    name: str
    model: nn.Module
    class_names: Sequence[str]

    def preprocess(self, frames_BHWC: Tensor) -> Tensor:
        """uint8 RGB frames (B, H, W, 3) of any size to model input (B, 3, H', W')."""

    def predictions(self, outputs: Any, frame_size: tuple[int, int]) -> list[list[dict[str, Any]]]:
        """Model outputs as plain data, one list a stream; boxes in pixels of a frame of (height, width)."""


def model_input(preprocess: Callable[[Tensor], Tensor], vit: nn.Module, frames_BHWC: Tensor) -> Tensor:
    """Frames as a model takes them (B, 3, H', W'), preprocessed where the model is and of the type of its weights.

    Args:
        preprocess: A task's.
        vit: The model, as it is now.
        frames_BHWC: uint8 RGB frames, anywhere.
    """
    weight = next(vit.parameters())
    return preprocess(frames_BHWC.to(weight.device)).to(weight.dtype)


def task_names() -> list[str]:
    """Names of all installed tasks."""
    return sorted(entry_points(group=GROUP).names)


def load_task(name: str, **options: Any) -> Any:
    """Builds a task.

    Args:
        name: Name of an installed task, or `MODULE:CLASS`, which is imported.
        **options: Options of the task, plain data; its own documentation lists them.

    Returns:
        A `Task`; those of this package are whole `envs.task.VideoTask`s.

    Raises:
        UserError: If there is no such task, it takes no such option, or it refuses the value of one.
        OSError: If a file that it needs is missing.
    """
    factory = _factory(name)
    check_options(f"task {name}", factory, options)
    with user_input(f"task {name}"):
        task = factory(**options)
    lacking = [part for part in PARTS if not hasattr(task, part)]
    if lacking:
        raise UserError(f"task {name} is no task: it lacks {', '.join(lacking)} (see envs.task.VideoTask)")
    return task


def option_types(name: str) -> dict[str, Any]:
    """Annotations of the options that an installed task takes; raises as `load_task` does if there is no such task."""
    return {} if is_user_code(name) else _hints(_factory(name))


def clip_options(name: str) -> tuple[str, ...]:
    """Names of the options that only the clips of an installed task depend on; nobody needs them on other footage."""
    return () if is_user_code(name) else getattr(_factory(name), "clip_options", ())


def saliency_of(task: Any) -> Saliency | None:
    """What a task says its consumer cares for (`envs.task.OptionalParts`), for `eventful.wrap`; None if it does not."""
    return getattr(task, "saliency", None)


def recorded_task(name: str) -> str:
    """The name of the task that a checkpoint records, to be loaded on the checkpoint's word alone.

    Raises:
        UserError: If it is a name for code, which is never imported because a file says so, or no installed task.
    """
    if is_user_code(name):
        raise UserError(
            f"the checkpoint was trained on task={name}, and code that a file names is not run: {_give(name)}"
        )
    if name not in task_names():
        raise UserError(f"the checkpoint was trained on task {name!r}, which is not installed: {_give('MODULE:CLASS')}")
    return name


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the known name most like this one, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _factory(name: str) -> Any:
    if is_user_code(name):
        return load_user_code(name, "task", "class")
    found = entry_points(group=GROUP, name=name)
    if not found:
        names = ", ".join(task_names()) or "none; is the package installed?"
        close = nearest(name, task_names())
        raise UserError(f"there is no task {name!r}{close} (installed tasks: {names}; your own: MODULE:CLASS)")
    entry = next(iter(found))
    try:
        if entry.dist is not None and entry.dist.name == DISTRIBUTION:
            refuse_shadows(entry.module.split(".")[0])
        return entry.load()
    except ImportError as error:
        raise UserError(f"task {name} cannot be imported: {one_line(error)}") from error


def _give(name: str) -> str:
    return f"give task={name} (eventful-infer: --task {name}), or in Python the task itself"


def check_options(what: str, factory: Any, options: Mapping[str, Any]) -> None:
    """Looks at options before something is built with them.

    Args:
        what: What is built, such as `task doom`, with which messages begin.
        factory: Class or function that takes the options.
        options: Plain data, by name.

    Raises:
        UserError: If there is no such option, its value is of another type, or one is missing.
    """
    parameters = inspect.signature(factory).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    hints = _hints(factory)
    takes = ", ".join(parameters) or "no options"
    for option, value in options.items():
        if option not in parameters:
            raise UserError(f"{what} has no option {option!r}{nearest(option, parameters)} (it takes: {takes})")
        if option in hints and not _admits(hints[option], value):
            raise UserError(f"{what}: option {option} cannot be {value!r} ({_show(hints[option])} is needed)")
    missing = [p.name for p in parameters.values() if p.default is p.empty and p.name not in options]
    if missing:
        raise UserError(f"{what} needs {', '.join(missing)}")


def _hints(factory: Any) -> dict[str, Any]:
    constructor: Any = inspect.getattr_static(factory, "__init__") if isinstance(factory, type) else factory
    try:
        return typing.get_type_hints(constructor)
    except NameError:
        # Names for type checkers only: the constructor itself has to judge its values.
        return {}


def _admits(hint: Any, value: Any) -> bool:
    """Whether a value may be passed where the annotation is `hint`; of containers, mappings alone are looked into."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_admits(part, value) for part in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    kind = typing.get_origin(hint) or hint
    if kind is Mapping and typing.get_args(hint) and isinstance(value, Mapping):
        # `{test:val}`, without a blank, is YAML for a key `test:val` without a value.
        of_keys, of_values = typing.get_args(hint)
        return all(_admits(of_keys, key) and _admits(of_values, inner) for key, inner in value.items())
    if kind is Any:
        return True
    if not isinstance(kind, type):
        return True
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _show(hint: Any) -> str:
    """An annotation without module names."""
    plain = isinstance(hint, type) and not typing.get_args(hint)
    return hint.__name__ if plain else re.sub(r"\b\w+\.", "", str(hint))
