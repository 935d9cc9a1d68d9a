"""Loading policy checkpoints: a folder (or hub repository) with `config.json` and `model.safetensors`.

Checkpoints that come with an installed package have names: those of the entry points `eventful.policies`, each of which
is the path of such a folder.
"""

from __future__ import annotations

import difflib
import json
from importlib.metadata import entry_points
from pathlib import Path

from huggingface_hub.constants import CONFIG_NAME, SAFETENSORS_SINGLE_FILE

from policies.learned import LearnedPolicy
from policies.provenance import Provenance, class_name
from policies.tensor_file import CheckpointError
from policies.trainable import TrainablePolicy

GROUP = "eventful.policies"


def set_aside(folder: Path) -> Path:
    """Where a checkpoint's folder may stand for the moment in which another one takes its place."""
    return folder.with_name(f"{folder.name}.old")


def load(path_or_hub_id: str | Path, kind: type[TrainablePolicy] = LearnedPolicy) -> TrainablePolicy:
    """Loads a policy for inference.

    Args:
        path_or_hub_id: Folder written by `save_pretrained`, name of an installed checkpoint such as `doom`, or
            `owner/name` on the model hub. A folder comes before a name, and the hub is not asked where `owner` is one.
        kind: Class of the policy. A checkpoint names its class, but never decides what code is run.

    Raises:
        CheckpointError: If there is no such checkpoint, it cannot be read, or is of another class; the message says
            which file.
    """
    path = Path(path_or_hub_id)
    if not path.exists() and str(path_or_hub_id) in installed_names():
        path_or_hub_id = path = _installed(str(path_or_hub_id))
    elif not path.exists() and path.name and set_aside(path).exists():
        path_or_hub_id = path = set_aside(path)
    if path.exists():
        _check_class(_provenance(path), path, kind)
    elif path.is_absolute() or len(path.parts) != 2 or str(path_or_hub_id).startswith(".") or path.parent.is_dir():
        # Where the first part is a folder here, the second is misspelt; the hub would be asked for half a minute.
        there = [p.parent.name for p in path.parent.glob(f"*/{CONFIG_NAME}")] if path.name else []
        similar = difflib.get_close_matches(path.name, there, n=1)
        meant = f"; did you mean {path.with_name(similar[0])}?" if similar else ""
        raise CheckpointError(
            f"no policy checkpoint at {path}{meant}: "
            f"expected a folder with {CONFIG_NAME} and {SAFETENSORS_SINGLE_FILE}, or the name of an "
            f"installed one ({', '.join(installed_names()) or 'there is none'})"
        )
    try:
        policy = kind.from_pretrained(str(path_or_hub_id))
    except CheckpointError:
        raise
    except OSError as error:
        if path.exists():
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        raise CheckpointError(
            f"no policy checkpoint at {path_or_hub_id}: neither a folder here nor to be had from the hub"
        ) from error
    except Exception as error:
        # Whatever a constructor makes of settings that are not what it takes.
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path_or_hub_id} is not a readable policy checkpoint: {type(error).__name__}: {reason}"
        ) from error
    return policy.eval()


def installed_names() -> list[str]:
    """Names of the checkpoints that come with installed packages."""
    return sorted(entry_points(group=GROUP).names)


def _installed(name: str) -> Path:
    try:
        return next(iter(entry_points(group=GROUP, name=name))).load()
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"the package that brings checkpoint {name} cannot be imported: {error}") from error


def _provenance(path: Path) -> Provenance:
    for name in (CONFIG_NAME, SAFETENSORS_SINGLE_FILE):
        if not (path / name).is_file():
            raise CheckpointError(f"{path} has no {name}: not a policy checkpoint")
    try:
        config = json.loads((path / CONFIG_NAME).read_text())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path / CONFIG_NAME} is not valid JSON: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path / CONFIG_NAME} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path / CONFIG_NAME} must hold a table of settings")
    try:
        return Provenance.of(config.get("provenance"))
    except ValueError as error:
        raise CheckpointError(f"{path / CONFIG_NAME}: {error}") from error


def _check_class(provenance: Provenance, path: Path, kind: type[TrainablePolicy]) -> None:
    stored, given = (name or LearnedPolicy.__name__ for name in (provenance.policy, class_name(kind)))
    if stored != given:
        raise CheckpointError(
            f"{path} is a policy of class {stored}, not {given}: give its class "
            "(in Python as `kind`, to a command as policy_class=MODULE:CLASS)"
        )
