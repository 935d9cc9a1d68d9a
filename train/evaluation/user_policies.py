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
import importlib
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from eventful import cli
from eventful.errors import UserError
from policies import Policy

Factory = Callable[[float], Policy]


def is_user_policy(name: str) -> bool:
    """Whether the name of a contender is one of these."""
    return ":" in name


def load_factory(name: str) -> Factory:
    """Imports the function that a name stands for.

    Raises:
        UserError: If there is no such module or function.
    """
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
        raise UserError(f"policies: {name!r} must be MODULE:FUNCTION, such as my_policies:mine")
    module_name, _, function_name = name.partition(":")
    if "" not in sys.path:
        # A console script's own folder stands in the place of the working directory.
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"policies: {name}: module {module_name!r} cannot be imported: {cli.one_line(error)}"
        ) from error
    factory = getattr(module, function_name, None)
    if not callable(factory):
        raise UserError(f"policies: {name}: module {module_name!r} has no function {function_name!r}")
    return factory


def make(name: str, budget: float) -> Policy:
    """The policy of a name, set to a budget.

    Raises:
        UserError: If the function does not make one.
    """
    with cli.user_input(f"policies: {name}"):
        policy = load_factory(name)(budget)
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
