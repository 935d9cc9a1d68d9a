"""Whether a policy runs in the model that it was trained in, by the weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import nn

from policies.content_hash import content_hash
from policies.provenance import Provenance

logger = logging.getLogger(__name__)

SHOWN = 12
"""Digits of a hash in messages."""


def backbone_hash(model: nn.Module) -> str:
    """Content hash of a model's weights, before they are moved to another data type."""
    return content_hash(model.state_dict())


def warn_of_other_backbone(trained: Provenance, backbone: str, options: Mapping[str, Any]) -> None:
    """Warns, in one line, if a model is not the one that a policy was trained in; says nothing if that is not known.

    Args:
        trained: What the policy's checkpoint records.
        backbone: Hash of the model that it is to run in.
        options: Options of the task that supplied this model.
    """
    if trained.backbone in ("", backbone):
        return
    then, now = trained.task_options, options
    both = [(name, str(then.get(name, "not given")), str(now.get(name, "not given"))) for name in {**then, **now}]
    differing = "; ".join(f"{name} {before} then, {after} now" for name, before, after in both if before != after)
    logger.warning(
        "warning: the policy was trained in a model with other weights (hash %s then, %s now; %s)",
        trained.backbone[:SHOWN],
        backbone[:SHOWN],
        differing or "the options of the task are the same",
    )
