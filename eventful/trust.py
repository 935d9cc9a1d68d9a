"""What a checkpoint may decide on its own word (docs/security.md).

A checkpoint records the options that its task was built with. Numbers, choices and the name of a model are taken from
it. Other texts may be paths, of files to be read and folders to be written, or code: they are taken from a checkpoint
that was trained here, by this user; what comes from elsewhere has to be given by the user, or trusted as a whole.

A training notes the digest of what its checkpoints record in `$XDG_DATA_HOME/eventful-policies/trained`
(`~/.local/share/...`), and nothing else is noted there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from eventful.errors import UserError
from eventful.tasks import option_types
from policies.provenance import Provenance

logger = logging.getLogger(__name__)

NAMES_OF_MODELS = ("model",)
"""Options that name a model which is built, or downloaded, by that name."""


def note_trained_here(provenance: Provenance) -> None:
    """Notes that checkpoints with this record are of a training here."""
    note = _note(provenance)
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
    except OSError as error:
        logger.warning("%s cannot be noted as trained here (%s): its paths will be asked for", note.name, error)


def trained_here(provenance: Provenance) -> bool:
    """Whether a training of this user has noted this record."""
    return _note(provenance).exists()


def options_of_checkpoint(
    trained: Provenance, given: Mapping[str, Any], trust: bool, flag: str, but: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The options that a checkpoint records, without those that the user gives.

    Args:
        trained: The checkpoint's record.
        given: Options that the user gives.
        trust: Whether the user trusts the checkpoint.
        flag: How that is said to the command, for the message.
        but: Names of options that can be done without, and are left out where the record is not trusted.

    Raises:
        UserError: If the record comes from elsewhere, is not trusted and has texts that the user has not replaced.
    """
    recorded = {name: value for name, value in trained.task_options.items() if name not in given}
    if trust or trained_here(trained):
        return recorded
    recorded = {name: value for name, value in recorded.items() if name not in but}
    types = option_types(trained.task) if recorded else {}
    texts = {name: value for name, value in recorded.items() if not _harmless(name, value, types.get(name))}
    if texts:
        named = ", ".join(f"{name}={value!r}" for name, value in texts.items())
        raise UserError(
            f"the checkpoint, which was not trained here, names {named}: files are not opened because a file says so; "
            f"give {', '.join(texts)} yourself, or {flag} if you know where it comes from"
        )
    return recorded


def _harmless(name: str, value: Any, kind: Any) -> bool:
    if name in NAMES_OF_MODELS or not _texts(value):
        return True
    parts = (kind, *get_args(kind))
    return any(value in get_args(part) for part in parts if get_origin(part) is Literal)


def _texts(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_texts(inner) for inner in (*value.keys(), *value.values()))
    return any(map(_texts, value)) if isinstance(value, list) else isinstance(value, str)


def _note(provenance: Provenance) -> Path:
    root = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    # Hash and command name nothing that is opened; versions that do not know them must find the note, too.
    record = json.dumps(dataclasses.replace(provenance, backbone="", command="").to_dict(), sort_keys=True)
    return Path(root) / "eventful-policies" / "trained" / hashlib.sha256(record.encode()).hexdigest()
