"""Loading policy checkpoints: a folder (or hub repository) with `config.json` and `model.safetensors`."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

from safetensors import SafetensorError

from policies.learned import LearnedPolicy


class CheckpointError(ValueError):
    """A policy checkpoint is missing, incomplete or damaged."""


def load(path_or_hub_id: str | Path) -> LearnedPolicy:
    """Loads a policy for inference.

    Args:
        path_or_hub_id: Folder written by `LearnedPolicy.save_pretrained`, or `owner/name` on the model hub.

    Raises:
        CheckpointError: If there is no such checkpoint, or it cannot be read; the message says which file.
    """
    path = Path(path_or_hub_id)
    if path.exists():
        _check_folder(path)
    elif path.is_absolute() or len(path.parts) != 2 or str(path_or_hub_id).startswith("."):
        raise CheckpointError(
            f"no policy checkpoint at {path}: expected a folder with config.json and model.safetensors"
        )
    try:
        # The hub's loader announces itself on stdout, where commands print their results.
        with contextlib.redirect_stdout(io.StringIO()):
            policy = LearnedPolicy.from_pretrained(str(path_or_hub_id))
    except (SafetensorError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path_or_hub_id} is not a readable policy checkpoint: {reason}") from error
    except OSError as error:
        raise CheckpointError(
            f"no policy checkpoint at {path_or_hub_id}: neither a folder here nor to be had from the hub"
        ) from error
    return policy.eval()


def _check_folder(path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        if not (path / name).is_file():
            raise CheckpointError(f"{path} has no {name}: not a policy checkpoint")
    try:
        json.loads((path / "config.json").read_text())
    except ValueError as error:
        raise CheckpointError(f"{path / 'config.json'} is not valid JSON: {error}") from error
