"""Contenders from elsewhere: policies that a Python function of the user's makes, `MODULE:FUNCTION`.

    # my_ppo.py
    from stable_baselines3 import PPO
    from train.sb3 import SB3Policy

    MODEL = PPO.load("runs/ppo.zip", device="cpu")

    def policy(budget):
        return SB3Policy(MODEL, budget)

    eventful-evaluate configs/evaluate.yaml policies=[TopR,CalibratedThreshold,my_ppo:policy]

The function takes the asked share of the dense MACs and returns a `policies.Policy`. Modules are looked for in the
working directory too.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from typing import Any

from torch import nn

from eventful import cli
from eventful.errors import UserError
from eventful.user_code import load_user_code
from policies import Policy


def make(name: str, budget: float) -> Policy:
    """The policy of a name, set to a budget.

    Raises:
        UserError: If the function does not make one.
    """
    with cli.user_input(f"policies: {name}"):
        policy = load_user_code(name, "policies")(budget)
    if not isinstance(policy, Policy):
        raise UserError(f"policies: {name} must return a policies.Policy, got {type(policy).__name__}")
    return policy


def fingerprint(name: str) -> str:
    """Eight hex digits that change with the function's source file and with the weights that its policies hold.

    Results on disk are found again by it. Weights are those of modules among the policy's attributes, two deep, which
    covers `SB3Policy`.
    """
    policy = make(name, 0.5)
    found = hashlib.sha256(inspect.getsource(sys.modules[name.partition(":")[0]]).encode())
    for module in _modules(policy, depth=2):
        for key, tensor in module.state_dict().items():
            found.update(key.encode())
            found.update(tensor.detach().cpu().float().numpy().tobytes())
    return found.hexdigest()[:8]


def _modules(owner: Any, depth: int) -> list[nn.Module]:
    """The modules that an object is or holds."""
    if isinstance(owner, nn.Module):
        return [owner]
    if not depth or not hasattr(owner, "__dict__"):
        return []
    return [module for value in vars(owner).values() for module in _modules(value, depth - 1)]
