"""What decides how a policy selects: two policies with the same facts are the same, whatever they are called."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from policies import Policy, TrainablePolicy
from policies.content_hash import content_hash


def policy_facts(policy: Policy) -> dict[str, Any]:
    """What decides how a policy selects, as plain data: its class, budget, settings, tensors, and policies within it.

    Settings are its attributes without a leading underscore.

    Raises:
        TypeError: If a setting is neither plain data nor a tensor nor another policy.
    """
    facts: dict[str, Any] = {"class": f"{type(policy).__module__}:{type(policy).__qualname__}"}
    if isinstance(policy, TrainablePolicy):
        settings = {name: value for name, value in policy.settings().items() if name != "provenance"}
        return facts | {"settings": settings, "tensors": content_hash(policy.state_dict())}
    own = {name: value for name, value in vars(policy).items() if not name.startswith("_") and name != "training"}
    if isinstance(policy, nn.Module):
        own |= {name: module for name, module in policy.named_children() if isinstance(module, Policy)}
        facts["tensors"] = content_hash(policy.state_dict())
    budget = policy.budget
    facts["budget"] = budget.tolist() if isinstance(budget, Tensor) else budget
    facts["settings"] = {
        name: policy_facts(value) if isinstance(value, Policy) else value for name, value in own.items()
    }
    return facts
