"""What an environment shows of a gate, and what an action means to it.

A few numbers per token, without any statistics to be carried along.

A learned policy normalises log errors with figures from its calibration. An environment must look the same to every
agent, so here an error counts relative to the tokens themselves: e = log(||c - u|| / rms_n ||u_n||), floored at -6
(0.25 % of a token's norm; a change of one grey level is above it), shown as (e + 2) / 2.

Shape suffixes: B streams, N tokens, D channels, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from policies.features import SALIENCY, SCALARS, feature_macs, log_error, saliency_features, scalar_features
from policies.protocol import BLOCK_GATES, GateObservation, Granularity, Layout, Selection

LIMIT = 10.0
"""All features are clipped to [-LIMIT, LIMIT]."""


_FLOOR = -6.0


def feature_names(granularity: Granularity, saliency: bool = False) -> tuple[str, ...]:
    """Names of the F features, in order.

    Those of `policies.features.SCALARS`; with granularity "gate" also `depth`, the share of the frame's gates that
    have decided, and the kind of the gate, one-hot; where the task says what its consumer cares for also those of
    `policies.features.SALIENCY`.
    """
    return (*SCALARS, *(() if granularity == "frame" else ("depth", *BLOCK_GATES)), *(SALIENCY if saliency else ()))


@torch.no_grad()
def gate_features(observation: GateObservation, budget_B: Tensor) -> Tensor:
    """The features named by `feature_names` (B, N, F), float32, within the bounds of the observation space."""
    features_BNF = scalar_features(observation, _relative_error(observation), budget_B)
    layout = observation.layout
    if layout.granularity == "gate":
        columns = [observation.gate / layout.gates, *(float(observation.kind == kind) for kind in BLOCK_GATES)]
        gate_K = torch.tensor(columns, device=features_BNF.device)
        features_BNF = torch.cat([features_BNF, gate_K.expand(*features_BNF.shape[:2], -1)], -1)
    if observation.saliency_BN is not None:
        features_BNF = torch.cat([features_BNF, saliency_features(observation)], -1)
    return features_BNF.clamp(-LIMIT, LIMIT)


def selection(mask_BN: Tensor, layout: Layout) -> Selection:
    """An action as a selection: the tokens that it names, and all pinned ones.

    With one mask per frame a class token's input never changes, yet its output must follow the other tokens'.
    """
    chosen_BN = mask_BN.to(torch.bool, copy=True)
    chosen_BN[:, : layout.pinned] = True
    return Selection(mask_BN=chosen_BN)


def observation_macs(layout: Layout, saliency: bool = False) -> float:
    """MACs of the features per gate and stream: those of the scalars, of saliency, and the norms of the references."""
    return feature_macs(layout, saliency) + float(layout.tokens * layout.dim)


def _relative_error(observation: GateObservation) -> Tensor:
    norm_BN = torch.linalg.vector_norm(observation.reference_BND, dim=-1, dtype=torch.float32)
    size_B1 = norm_BN.square().mean(1, keepdim=True).sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    return ((log_error(observation) - size_B1.log()).clamp(min=_FLOOR) + 2) / 2
