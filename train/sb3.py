"""Models of Stable-Baselines3 as token policies, to be run and evaluated like any other.

>>> model = PPO("MlpPolicy", gymnasium.make("eventful/FrameSelection-v0", task="doom")).learn(100_000)
>>> policy = SB3Policy(model, budget=0.1)

Shape suffixes: B streams, N tokens, F features.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from envs.observation import feature_names, gate_features, observation_macs, selection
from eventful.macs.ledger import linear_macs
from policies.budget import BudgetedPolicy
from policies.protocol import Budget, GateObservation, Layout, PolicyMismatch, Selection


class Predictor(Protocol):
    """What is needed of a model of Stable-Baselines3 that has learned in a selection environment."""

    observation_space: Any
    policy: Any

    def predict(self, observation: Any, *, deterministic: bool) -> tuple[Any, Any]:
        """Observations (B, N, F) to actions (B, N)."""


class SB3Policy(BudgetedPolicy):
    """Selects what the model's action says on the features of the environments.

    Args:
        model: Model that was trained on `eventful/FrameSelection-v0` or `eventful/GateSelection-v0`.
        budget: Target share of the dense MACs that the model is told; may be set before every frame.
        deterministic: Whether the likeliest action is taken instead of a sampled one.
    """

    def __init__(self, model: Predictor, budget: Budget = 0.1, deterministic: bool = True) -> None:
        self.model, self.budget, self.deterministic = model, budget, deterministic

    def select(self, observation: GateObservation) -> Selection:
        """See `Policy.select`.

        Raises:
            PolicyMismatch: If the model has learned with other numbers of tokens or features.
        """
        features_BNF = gate_features(observation, self.budget_per_stream(observation)).cpu().numpy()
        if features_BNF.shape[1:] != self.model.observation_space.shape:
            raise PolicyMismatch(
                f"the policy has learned on observations {self.model.observation_space.shape}, "
                f"the model gives {features_BNF.shape[1:]}"
            )
        action_BN, _ = self.model.predict(features_BNF, deterministic=self.deterministic)
        mask_BN = torch.from_numpy(np.asarray(action_BN) != 0)
        return selection(mask_BN.to(observation.input_BND.device), observation.layout)

    def macs(self, layout: Layout) -> float:
        """See `Policy.macs`: the features, and the linear layers of the actor."""
        seen = self.model.observation_space.shape[-1] == len(feature_names(layout.granularity, saliency=True))
        return observation_macs(layout, seen) + linear_macs(*self._actor())

    @property
    def name(self) -> str:
        """See `Policy.name`."""
        return f"SB3-{type(self.model).__name__}"

    def _actor(self) -> list[nn.Module]:
        policy = self.model.policy
        extractor = getattr(policy, "pi_features_extractor", None) or policy.features_extractor
        return [extractor, policy.mlp_extractor.policy_net, policy.action_net]
