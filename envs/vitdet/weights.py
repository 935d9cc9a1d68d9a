"""A detector on disk: one safetensors file, with what must be known to build it beside the tensors.

What `python -m envs.convert` writes lacks that: it is a detector as published, whose sizes are the defaults.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import nn

from eventful.disk.replaced import replace_file
from eventful.errors import UserError

_KEY = "detector"


@dataclass(frozen=True)
class DetectorFacts:
    """What a detector is, besides its weights.

    Attributes:
        canvas: Side of the canvas in pixels that it was trained on.
        classes: Names of the classes, in the order of their labels; those of ImageNet VID if None.
        proposals: Most proposals of a frame.
        architecture: As in `envs.vitdet.detector.vitdet_vid`.
    """

    canvas: int = 672
    classes: Sequence[str] | None = None
    proposals: int = 300
    architecture: Mapping[str, Any] = field(default_factory=dict)


def save_detector(vit: nn.Module, path: Path, facts: DetectorFacts) -> None:
    """Writes the weights in half precision, and what they are of; whole or not at all."""
    state = {name: tensor.half().contiguous() for name, tensor in vit.state_dict().items()}
    about = {_KEY: json.dumps(dataclasses.asdict(facts))}
    replace_file(path, lambda partial: safetensors.torch.save_file(state, partial, about))


def facts_of(path: str | Path | None) -> DetectorFacts:
    """What a weights file says of its detector; a published one, where it says nothing or there is no file.

    Raises:
        UserError: If what it says is damaged.
        OSError: If the file is missing.
    """
    if path is None or Path(path).suffix != ".safetensors":
        return DetectorFacts()
    if not Path(path).is_file():
        raise FileNotFoundError(f"weights file {path} does not exist")
    try:
        with safe_open(path, "pt") as file:
            said = (file.metadata() or {}).get(_KEY)
        return DetectorFacts() if said is None else DetectorFacts(**json.loads(said))
    except (SafetensorError, ValueError, TypeError) as error:
        raise UserError(f"weights file {path} cannot be read: {' '.join(str(error).split())}") from error
