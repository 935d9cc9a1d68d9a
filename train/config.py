"""Configs: dataclasses, filled from a YAML file and `key=value` overrides, checked key by key and type by type.

    eventful-train configs/demo.yaml estimator=reinforce seed=1 [--print-config] [--help]

A command declares a plain dataclass, documents its fields under `Attributes:` in the docstring (the text of `--help`),
and calls `load_config`. OmegaConf's structured configs do the conversion; what comes back is an instance of the
dataclass, so no other module sees OmegaConf, and modules take values, never configs.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from envs.task import VideoTask
from eventful.cli import one_line
from eventful.errors import UserError
from eventful.tasks import load_task, nearest

Config = TypeVar("Config")


@dataclass
class TaskConfig:
    """The keys that choose a task; to be inherited by the configs of the commands.

    Attributes:
        task: Name of the task, such as `doom` or `distill`.
        video: Video file, folder of images or folder of videos (distill).
        model: Name of the timm model (distill).
        weights: Weights file of the model, .safetensors or .pth; downloaded by name if not given (distill).
        image_size: [height, width] of the model's input; the model's own size if not given (distill).
        train_frames: Frames to train on, `first-last`, last included (distill).
        test_frames: Frames to evaluate on, likewise (distill).
        clip_length: Frames of a clip (distill).
        task_options: Any other options of the task, as `task_options.NAME=VALUE`.
    """

    task: str = "doom"
    video: str | None = None
    model: str | None = None
    weights: str | None = None
    image_size: list[int] | None = None
    train_frames: str | None = None
    test_frames: str | None = None
    clip_length: int | None = None
    task_options: dict[str, Any] = field(default_factory=dict)


def task_options(config: TaskConfig) -> dict[str, Any]:
    """The options that a config gives to its task: plain data, fit for a checkpoint's provenance."""
    names = [f.name for f in dataclasses.fields(TaskConfig) if f.name not in ("task", "task_options")]
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    return given | config.task_options


def make_task(config: TaskConfig) -> VideoTask:
    """Builds the task that a config names.

    Raises:
        UserError: If there is no such task, or it does not take an option that is given.
        OSError: If a file that it needs is missing.
    """
    return load_task(config.task, **task_options(config))


def device_named(name: str) -> torch.device:
    """The device that a config names.

    Raises:
        UserError: If there is no such device here.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name}: {one_line(error)}") from error
    return device


def load_config(cls: type[Config], argv: Sequence[str], command: str = "COMMAND") -> Config:
    """Reads a config from command line arguments.

    Args:
        cls: A dataclass; nested dataclasses are reached as `outer.inner=value`.
        argv: A YAML file (optional) and `key=value` overrides, later ones first; `--print-config` or `--help`.
        command: Name of the command, for `--help`.

    Returns:
        An instance of `cls`.

    Raises:
        UserError: For an unknown key, a value of the wrong type, a file that is missing or no YAML; the message
            names the key, where it came from, and the nearest valid name.
        SystemExit: With code 0, after `--help` or `--print-config`.
    """
    if "--help" in argv or "-h" in argv:
        print(_help(cls, command))
        raise SystemExit(0)
    merged: DictConfig = OmegaConf.structured(cls)
    for origin, values in _sources([a for a in argv if a != "--print-config"], command):
        _check_keys(cls, values, origin)
        merged = _merge(merged, values, origin)
    config = _instantiate(merged)
    if "--print-config" in argv:
        print(OmegaConf.to_yaml(merged, resolve=True), end="")
        raise SystemExit(0)
    return config


def _sources(argv: Sequence[str], command: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where values come from, and the values: the file first, whatever the order of the arguments."""
    files = [a for a in argv if "=" not in a and not a.startswith("-")]
    if len(files) > 1:
        raise UserError(f"one config file at most, got {files[0]} and {files[1]}; overrides are written key=value")
    for option in (a for a in argv if a.startswith("-")):
        raise UserError(f"unknown option {option} (usage: {_usage(command)})")
    for name in files:
        yield name, _read_yaml(Path(name))
    for override in (a for a in argv if "=" in a):
        yield f"override {override!r}", _read_override(override)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        loaded = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise UserError(f"config file {path} does not exist{_similar_file(path)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config file {path} cannot be read: {one_line(error)}") from error
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"config file {path} is not valid YAML: {_yaml_problem(error)}") from error
    if not isinstance(loaded, DictConfig):
        raise UserError(f"config file {path} must hold `key: value` lines, not a list")
    return _plain(loaded)


def _read_override(override: str) -> dict[str, Any]:
    try:
        return _plain(OmegaConf.from_dotlist([override]))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"override {override!r} has no valid value: {_yaml_problem(error)}") from error


def _plain(config: DictConfig) -> dict[str, Any]:
    values = OmegaConf.to_container(config, resolve=False)
    return {str(key): value for key, value in values.items()} if isinstance(values, dict) else {}


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f" in line {mark.line + 1}" if mark is not None else ""
    return f"{getattr(error, 'problem', None) or one_line(error)}{where}"


def _similar_file(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("configs")
    return nearest(str(path), [str(p) for p in folder.glob("*.yaml")])


def _check_keys(cls: Any, values: Mapping[str, Any], origin: str, prefix: str = "") -> None:
    """Looks for keys that the dataclass does not have, into nested dataclasses."""
    hints = get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    for key, value in values.items():
        if key not in names:
            close = nearest(f"{prefix}{key}", [path for path, *_ in _leaves(cls, prefix)])
            raise UserError(f"{origin}: unknown key {prefix + key!r}{close or '; valid keys: ' + ', '.join(names)}")
        nested = _dataclass_of(hints[key])
        if nested is not None and isinstance(value, Mapping):
            _check_keys(nested, value, origin, f"{prefix}{key}.")
        elif nested is not None and value is not None:
            inner = ", ".join(path for path, *_ in _leaves(nested, f"{prefix}{key}."))
            raise UserError(f"{origin}: {prefix}{key} must hold keys ({inner}), got {value!r}")


def _merge(merged: DictConfig, values: dict[str, Any], origin: str) -> DictConfig:
    """Merges key by key, so that an error can name its key even where OmegaConf does not."""
    for key, value in values.items():
        try:
            merged = OmegaConf.merge(merged, {key: value})  # type: ignore[assignment]
        except OmegaConfBaseException as error:
            where = getattr(error, "full_key", None) or key
            raise UserError(f"{origin}: {where} {_type_problem(merged, str(where), value, error)}") from error
    return merged


def _type_problem(merged: DictConfig, key: str, value: Any, error: Exception) -> str:
    cls = OmegaConf.get_type(merged)
    kinds = {path: hint for path, hint, _ in _leaves(cls, "")} if cls is not None else {}
    name = re.sub(r"\[.*", "", key)
    if name in kinds:
        for part in key.split(".")[1:]:
            value = value.get(part, value) if isinstance(value, Mapping) else value
        return f"must be {_show(kinds[name])}, got {value!r}"
    return f"has a wrong value: {str(error).splitlines()[0]}"


def _instantiate(merged: DictConfig) -> Any:
    try:
        return OmegaConf.to_object(merged)
    except MissingMandatoryValue as error:
        raise UserError(f"no value for {error.full_key}; give {error.full_key}=VALUE") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or 'config'}: {str(error).splitlines()[0]}") from error
    except ValueError as error:
        # Raised by a dataclass that checks its own values in __post_init__.
        raise UserError(f"config: {one_line(error)}") from error


def _leaves(cls: Any, prefix: str) -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """All keys that can be set, with their types and fields."""
    hints = get_type_hints(cls)
    for f in dataclasses.fields(cls):
        nested = _dataclass_of(hints[f.name])
        if nested is not None:
            yield from _leaves(nested, f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}", hints[f.name], f


def _dataclass_of(hint: Any) -> Any:
    """The dataclass in an annotation such as `Sub` or `Sub | None`."""
    return next((t for t in (hint, *get_args(hint)) if dataclasses.is_dataclass(t)), None)


def _usage(command: str) -> str:
    return f"{command} [FILE.yaml] [key=value ...] [--print-config] [--help]"


def _help(cls: Any, command: str) -> str:
    """Usage, and all keys with their types, defaults and docs."""
    lines = [f"usage: {_usage(command)}", "", inspect.cleandoc(cls.__doc__ or "").split("\n")[0], "", "keys:"]
    for path, hint, f in _leaves(cls, ""):
        default = f.default if f.default is not dataclasses.MISSING else None
        if f.default_factory is not dataclasses.MISSING:
            default = f.default_factory()
        lines.append(f"  {path}: {_show(hint)} = {'required' if default == '???' else default}")
        doc = _docs(cls, path.split("."))
        lines += [f"      {doc}"] if doc else []
    return "\n".join(lines)


def _docs(cls: Any, path: Sequence[str]) -> str:
    """The text of a key under `Attributes:` in the docstring of its class or of one it inherits from."""
    if len(path) > 1:
        return _docs(_dataclass_of(get_type_hints(cls)[path[0]]), path[1:])
    for base in cls.__mro__:
        section = re.search(r"^Attributes:\n((?:[ ]+.*\n?|\n)*)", inspect.cleandoc(base.__doc__ or ""), re.MULTILINE)
        found = section and re.search(rf"^ {{4}}{path[0]}: (.*(?:\n {{5,}}.*)*)", section[1], re.MULTILINE)
        if found:
            return " ".join(found[1].split())
    return ""


def _show(hint: Any) -> str:
    """An annotation as a user would say it."""
    if isinstance(hint, type) and not get_args(hint):
        return hint.__name__
    text = str(hint).replace("typing.", "")
    return re.sub(r"Literal\[(.*?)\]", lambda m: m[1].replace("'", "").replace(", ", " | "), text)
