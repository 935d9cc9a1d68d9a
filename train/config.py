"""Configs: dataclasses, filled from a YAML file and `key=value` overrides, checked key by key and type by type.

    eventful-train configs/demo.yaml estimator=reinforce seed=1 [--print-config] [--help]

A setting is declared once, in a dataclass beside the code that uses it, and documented there under `Attributes:` (the
text of `--help`, which ends in what is under `Examples:`). The config of a command is a dataclass that inherits such
declarations, or nests them as a group of keys, and is filled by `load_config`. Metadata of a field say more:

- `read_by`: choices, such as `("estimator=gumbel",)`, one of which must be made for the setting, or for all of a group,
  to be read (`A=1 and B=2` is one choice). What is set and not read is refused (`check_settings`).
- `range`: of a number, or of each in a list (`eventful.checks.ranges`).
- `also`: another name, at the top level, by which earlier versions knew the setting.

OmegaConf's structured configs do the conversion; what comes back is an instance of the dataclass, so no other module
sees OmegaConf, and modules take values, never configs.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from eventful.checks.ranges import check_ranges
from eventful.cli import one_line
from eventful.console.options import COMPLETION, completion
from eventful.errors import UserError
from eventful.tasks import nearest
from train.config_keys import Leaf, dataclass_of, help_text, leaves, shown, usage, words

Config = TypeVar("Config")
_MISSING = "???"
"""What OmegaConf takes for a value that is missing, even where it is a text."""
_QUOTED = re.compile(r"""(["']).*\1""", re.DOTALL)


def part(config: Any, cls: type[Config]) -> Config:
    """The settings that a config has inherited from a dataclass, as an instance of that class alone."""
    return cls(**{f.name: getattr(config, f.name) for f in dataclasses.fields(cls)})  # type: ignore[arg-type]


def check_settings(config: Any) -> None:
    """Refuses numbers out of their ranges, and settings, other than the defaults, that nothing reads.

    Raises:
        UserError: Naming the setting, and its range or the choices that read it.
    """
    check_ranges(config)
    for leaf in leaves(type(config)):
        if not leaf.read_by or _value(config, leaf) == leaf.default:
            continue
        parts = [part for choice in leaf.read_by for part in choice.split(" and ")]
        now = {name: getattr(config, name) for name in (part.partition("=")[0] for part in parts)}
        made = {f"{name}={value}" for name, value in now.items()}
        if not any(made.issuperset(choice.split(" and ")) for choice in leaf.read_by):
            state = ", ".join(f"{name} is {value}" for name, value in now.items())
            raise UserError(f"{leaf.path} is read by {' or '.join(leaf.read_by)} only ({state})")


def _value(config: Any, leaf: Leaf) -> Any:
    """What a key is set to; its default within a group that is not given."""
    group, _, _ = leaf.path.rpartition(".")
    given = not group or attrgetter(group)(config) is not None
    return attrgetter(leaf.path)(config) if given else leaf.default


def load_config(cls: type[Config], argv: Sequence[str], command: str = "COMMAND") -> Config:
    """Reads a config from command line arguments.

    Args:
        cls: A dataclass; nested dataclasses are reached as `outer.inner=value`.
        argv: YAML file (optional) and `key=value` overrides, of which the last counts; `--print-config`,
            `--print-completion` or `--help`.
        command: Name of the command, for `--help`.

    Returns:
        An instance of `cls`.

    Raises:
        UserError: For an unknown key, a value of the wrong type, a setting that nothing reads, a file that is missing
            or no YAML; the message names the key, where it came from, and the nearest valid name.
        SystemExit: With code 0, after `--help`, `--print-config` or `--print-completion`.
    """
    if "--help" in argv or "-h" in argv:
        print(help_text(cls, command))
        raise SystemExit(0)
    if COMPLETION in argv:
        print(completion(command, words(cls)))
        raise SystemExit(0)
    merged: DictConfig = OmegaConf.structured(cls)
    texts: dict[str, str] = {}
    for sources in _sources(cls, [a for a in argv if a != "--print-config"], command):
        given: dict[str, tuple[str, Any]] = {}
        for origin, values in sources:
            _rename(cls, values, origin, given)
            _check_keys(cls, values, origin)
            values = _literal(_from_home(values))
            texts = {key: text for key, text in texts.items() if key not in values}
            texts |= {key: text for key, text in values.items() if _is_text(cls, key) and text == _MISSING}
            merged = _merge(merged, {key: value for key, value in values.items() if key not in texts}, origin)
    config = _instantiate(merged)
    for key, text in texts.items():
        setattr(config, key, text)
    check_settings(config)
    if "--print-config" in argv:
        print(yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True), end="")
        raise SystemExit(0)
    return config


def command_line(config: Any, command: str, but: Sequence[str] = ()) -> str:
    """The command line that says what a config says, without a file.

    Args:
        config: Instance of a config.
        command: Name of the command.
        but: Keys that are left out.
    """
    words = []
    for leaf in leaves(type(config)):
        group, _, _ = leaf.path.rpartition(".")
        chosen = bool(group) and getattr(type(config)(), group) is None and attrgetter(group)(config) is not None
        value = _value(config, leaf)
        if leaf.path not in but and (chosen or value != leaf.default):
            text = value if isinstance(value, str) else _flow(value)
            words.append(f"{leaf.path}={text}")
    return shlex.join([*command.split(), *words])


def _flow(value: Any) -> str:
    """A value as YAML on one line, without the mark at the end of a document."""
    return yaml.safe_dump(value, default_flow_style=True, width=1 << 16).removesuffix("...\n").strip()


def _sources(cls: Any, argv: Sequence[str], command: str) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Where values come from, and the values: first those of the file, then those of the command line."""
    files = [a for a in argv if "=" not in a and not a.startswith("-")]
    if len(files) > 1:
        raise UserError(f"one config file at most, got {files[0]} and {files[1]}; overrides are written key=value")
    for option in (a for a in argv if a.startswith("-")):
        raise UserError(f"unknown option {option} (usage: {usage(command)})")
    yield [(name, _read_yaml(Path(name))) for name in files]
    yield [(f"override {override!r}", _read_override(cls, override)) for override in argv if "=" in override]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        loaded = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise UserError(f"config file {path} does not exist{_similar_file(path)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config file {path} cannot be read: {one_line(error)}") from error
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"config file {path} is not valid YAML: {_yaml_problem(error)}") from error
    if not isinstance(loaded, DictConfig):
        raise UserError(f"config file {path} must hold `key: value` lines, not a list")
    return _plain(loaded)


def _read_override(cls: Any, override: str) -> dict[str, Any]:
    key, _, text = override.partition("=")
    if not key.strip("[]. "):
        raise UserError(f"override {override!r} names no key; overrides are written key=value")
    if _is_text(cls, key) and not _QUOTED.fullmatch(text):
        return {key: None if text == "null" else text}
    try:
        return _plain(OmegaConf.from_dotlist([override]))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"override {override!r} has no valid value: {_yaml_problem(error)}") from error


def _is_text(cls: Any, key: str) -> bool:
    """Whether a key holds a text, or nothing: then what stands behind the `=` is meant as it is, and is no YAML."""
    hint = get_type_hints(cls).get(key)
    return hint is str or set(get_args(hint)) == {str, type(None)}


def _from_home(value: Any) -> Any:
    """Shells expand `~` at the beginning of a word alone, which it is not behind `key=`."""
    if isinstance(value, dict):
        return {key: _from_home(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_from_home(inner) for inner in value]
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


def _literal(value: Any) -> Any:
    """Texts in which OmegaConf finds no reference to the environment or to other keys: they mean what they say."""
    if isinstance(value, dict):
        return {key: _literal(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_literal(inner) for inner in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


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


def _rename(cls: Any, values: dict[str, Any], origin: str, given: dict[str, tuple[str, Any]]) -> None:
    """Moves values of earlier versions' names to the names of now, in place.

    Args:
        cls: Dataclass of the config.
        values: Values that one source gives, by name; edited in place.
        origin: Name of the source, for messages.
        given: Settings from the file, or the command line, so far: by name of now, the name used and the value.

    Raises:
        UserError: If one setting has different values under both names.
    """
    for leaf in leaves(cls):
        if leaf.also is None:
            continue
        group, _, name = leaf.path.partition(".")
        inner = values.get(group, {})
        found = [(leaf.path, inner[name])] if isinstance(inner, dict) and name in inner else []
        found += [(leaf.also, values.pop(leaf.also))] if leaf.also in values else []
        for used, value in found:
            other, before = given.get(leaf.path, (used, value))
            if used != other and value != before:
                raise UserError(f"{origin}: {used} and {other} are one setting, got {value!r} and {before!r}")
            given[leaf.path] = used, value
            if isinstance(inner, dict):
                values[group] = inner | {name: value}


def _check_keys(cls: Any, values: Mapping[str, Any], origin: str, prefix: str = "") -> None:
    """Looks for keys that the dataclass does not have, into nested dataclasses."""
    hints = get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    for key, value in values.items():
        if key not in names:
            close = nearest(f"{prefix}{key}", [leaf.path for leaf in leaves(cls, prefix)])
            raise UserError(f"{origin}: unknown key {prefix + key!r}{close or '; valid keys: ' + ', '.join(names)}")
        nested = dataclass_of(hints[key])
        if nested is not None and isinstance(value, Mapping):
            _check_keys(nested, value, origin, f"{prefix}{key}.")
        elif nested is not None and value is not None:
            inner = ", ".join(leaf.path for leaf in leaves(nested, f"{prefix}{key}."))
            raise UserError(f"{origin}: {prefix}{key} must hold keys ({inner}), got {value!r}")


def _merge(merged: DictConfig, values: dict[str, Any], origin: str) -> DictConfig:
    """Merges key by key, so that an error can name its key even where OmegaConf does not."""
    for key, value in values.items():
        try:
            merged = OmegaConf.merge(merged, {key: value})  # type: ignore[assignment]
        except (OmegaConfBaseException, TypeError) as error:
            # A TypeError: a list where a table belongs.
            where = getattr(error, "full_key", None) or key
            raise UserError(f"{origin}: {where} {_type_problem(merged, str(where), value, error)}") from error
    return merged


def _type_problem(merged: DictConfig, key: str, value: Any, error: Exception) -> str:
    cls = OmegaConf.get_type(merged)
    kinds = {leaf.path: leaf.hint for leaf in leaves(cls)} if cls is not None else {}
    name = re.sub(r"\[.*", "", key)
    if name in kinds:
        for part in key.split(".")[1:]:
            value = value.get(part, value) if isinstance(value, Mapping) else value
        return f"must be {shown(kinds[name])}, got {value!r}"
    return f"has a wrong value: {str(error).splitlines()[0]}"


def _instantiate(merged: DictConfig) -> Any:
    try:
        return OmegaConf.to_object(merged)
    except MissingMandatoryValue as error:
        raise UserError(f"no value for {error.full_key}; give {error.full_key}=VALUE") from error
    except OmegaConfBaseException as error:
        # Every text with a `${` is one that was made no reference.
        reason = re.sub("^While dereferencing interpolation '.*': (?=Invalid)", "", str(error).splitlines()[0])
        raise UserError(f"{error.full_key or 'config'}: {reason}") from error
    except ValueError as error:
        # Raised by a dataclass that checks its own values in __post_init__.
        raise UserError(one_line(error)) from error
