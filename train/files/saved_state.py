"""The file from which a training goes on, and what it must have in common with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from eventful.errors import UserError


def differing(mine: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    """Names of what is not the same in both, or not in both."""
    return sorted(name for name in mine.keys() | saved.keys() if mine.get(name) != saved.get(name))


def refuse_other_settings(mine: Mapping[str, Any], saved: Mapping[str, Any], path: Path) -> None:
    """Raises a `UserError` that names the settings, and the file, if they are not those of the file."""
    other = differing(mine, saved)
    if other:
        raise UserError(
            f"{path} belongs to a run with other settings ({', '.join(other)}); "
            "choose another out folder, or delete it to start anew"
        )


def read_state(path: Path, settings: Mapping[str, Any], key: str) -> dict[str, Any]:
    """What a training has saved.

    Args:
        path: The file.
        settings: Of the training that is to go on.
        key: Name of the settings within the file.

    Raises:
        UserError: If it is damaged, or belongs to a run with other settings.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        saved = dict(state[key])
    except Exception as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}); delete it to start anew") from error
    refuse_other_settings(settings, saved, path)
    return state
