"""Short names for what things are, not for what they are called: digests of tensors, policies and plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from policies import Policy, TrainablePolicy


def digest(facts: Any) -> str:
    """Sixteen hex digits of plain data."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def tensors_digest(state: Mapping[str, Tensor]) -> str:
    """Sixteen hex digits of tensors by name: of their types, shapes and bytes."""
    found = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def policy_facts(policy: Policy) -> dict[str, Any]:
    """What decides how a policy selects, as plain data: its class, budget, settings, tensors, and policies within it.

    Settings are its attributes without a leading underscore.

    Raises:
        TypeError: If a setting is neither plain data nor a tensor nor another policy.
    """
    facts: dict[str, Any] = {"class": f"{type(policy).__module__}:{type(policy).__qualname__}"}
    if isinstance(policy, TrainablePolicy):
        settings = {name: value for name, value in policy.settings().items() if name != "provenance"}
        return facts | {"settings": settings, "tensors": tensors_digest(policy.state_dict())}
    own = {name: value for name, value in vars(policy).items() if not name.startswith("_") and name != "training"}
    if isinstance(policy, nn.Module):
        own |= {name: module for name, module in policy.named_children() if isinstance(module, Policy)}
        facts["tensors"] = tensors_digest(policy.state_dict())
    budget = policy.budget
    facts["budget"] = budget.tolist() if isinstance(budget, Tensor) else budget
    facts["settings"] = {
        name: policy_facts(value) if isinstance(value, Policy) else value for name, value in own.items()
    }
    return facts
