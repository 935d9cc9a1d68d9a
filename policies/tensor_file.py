"""The tensors of a policy on disk: written with a checksum, read only if they are exactly what the policy has.

`model.safetensors` holds every tensor of the policy once; its metadata has `sha256`, the `content_hash` of the tensors
and of the settings in `config.json` together. Files of version 0.1 have none, and are held to names, shapes, types and
finite values alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from policies.content_hash import content_hash

CHECKSUM = "sha256"
_PLAIN = (bool, int, float, str, list, tuple, dict, type(None))


class CheckpointError(ValueError):
    """A policy checkpoint is missing, incomplete or damaged."""


def write_tensors(module: nn.Module, config: Mapping[str, Any], path: Path, like: nn.Module | None = None) -> None:
    """Writes a module's tensors.

    Args:
        module: Module to be stored; what it holds under several names is written under the first one.
        config: Settings that are stored beside it, plain data as JSON gives it back.
        path: File to write.
        like: The module that these settings make, which may be on the meta device; None if nobody can say. Wider
            types than its own are written as its own.

    Raises:
        CheckpointError: If the settings make a module with other tensors, so that the file could not be read.
    """
    tensors: dict[str, Tensor] = {}
    own = {} if like is None else like.state_dict(keep_vars=True)
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            if name in own and _fits(own[name].dtype, tensor.dtype):
                tensors[name] = tensors[name].to(own[name].dtype)
            seen.add(id(tensor))
    problem = "" if like is None else _difference(own, tensors)
    if problem:
        raise CheckpointError(f"the policy cannot be saved, as its settings make another one: {problem}")
    checksum = content_hash({"config": config, "tensors": tensors})
    path.write_bytes(_in_order(save(tensors, metadata={"format": "pt", CHECKSUM: checksum})))


def _in_order(data: bytes) -> bytes:
    """The same file with its metadata in alphabetical order: the library's order is another one at each call."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(start - 8)
    return len(text).to_bytes(8, "little") + text + data[start:]


def read_tensors(path: Path, config: Mapping[str, Any], like: nn.Module) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU.

    Args:
        path: File written by `write_tensors`.
        config: Settings that are stored beside it.
        like: A module with the same tensors; they may be on the meta device.

    Raises:
        CheckpointError: If the file is damaged, has other tensors than the module, or values that are not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (the file is no table)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    problem = _difference(like.state_dict(keep_vars=True), tensors)
    if problem:
        raise CheckpointError(f"{path} does not fit the settings beside it: {problem}")
    stored = metadata.get(CHECKSUM)
    if stored is not None and stored != content_hash({"config": config, "tensors": tensors}):
        raise CheckpointError(
            f"{path} or the config.json beside it is damaged, or was changed: the checksum is another "
            "(settings are changed by loading the policy and saving it again)"
        )
    wild = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if wild:
        raise CheckpointError(f"{path}: {_first(wild)} has values that are not finite")
    return tensors


def settings_as_they_are(module: nn.Module, made: Mapping[str, Any], like: nn.Module) -> dict[str, Any]:
    """Arguments of a module with what its attributes of these names were set to since it was made.

    Args:
        module: The module.
        made: Arguments that it was made with, plain data.
        like: What they make.

    Raises:
        CheckpointError: If an attribute was changed that is not its argument as it was given.
    """
    now = dict(made)
    for name in made.keys() & vars(module).keys() & vars(like).keys():
        value, fresh = vars(module)[name], vars(like)[name]
        if not isinstance(value, _PLAIN) or value == fresh:
            continue
        if fresh != made[name]:
            raise CheckpointError(
                f"the policy cannot be saved: {name} was changed from {fresh!r} to {value!r}, and was made of "
                f"{name}={made[name]!r}, which says nothing of it"
            )
        now[name] = value
    return now


def _difference(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """What keeps tensors from being a module's; empty if nothing does."""
    given = {id(own[name]) for name in found if name in own}
    missing = [name for name, tensor in own.items() if name not in found and id(tensor) not in given]
    if missing:
        return f"it lacks {_first(missing)}"
    unknown = [name for name in found if name not in own]
    if unknown:
        return f"it has {_first(unknown)}, which the policy has not"
    for name, tensor in found.items():
        if tensor.shape != own[name].shape:
            return f"{name} is {tuple(tensor.shape)}, the policy's is {tuple(own[name].shape)}"
        if not _fits(tensor.dtype, own[name].dtype):
            return f"{name} is {tensor.dtype}, the policy's is {own[name].dtype}"
    return ""


def _fits(stored: torch.dtype, own: torch.dtype) -> bool:
    """Whether values can be taken over as they are: half precision fits into single."""
    return stored == own or (stored.is_floating_point and torch.promote_types(stored, own) == own)


def _first(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
