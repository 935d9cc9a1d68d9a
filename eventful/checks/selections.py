"""Whether a selection fits the gate that asked for it.

Shapes and types are looked at always, and cost nothing. Values are looked at where the tokens are on the CPU: an index
out of range would update another stream, one that is there twice would be paid twice, and nothing exceeds, or is
exceeded by, a score that is no number. On a GPU that would make the host wait for the device at every gate: set the
environment variable `EVENTFUL_DEBUG=1` to have it there too.

Shape suffixes: B streams, N tokens, M selected tokens.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor

from eventful.errors import SelectionError
from policies.protocol import GateObservation, Selection

DEBUG = os.environ.get("EVENTFUL_DEBUG", "") not in ("", "0")
"""Whether values are looked at on every device."""


def checked(selection: Selection, observation: GateObservation, masked: bool, policy: str) -> Selection:
    """The selection as it is.

    Args:
        selection: Answer to the observation.
        observation: What the gate showed.
        masked: Whether execution is masked (training), where masks may be relaxed.
        policy: Name of the policy that is attached to the model, for the message.

    Raises:
        SelectionError: If the selection does not fit, naming the policy and the gate.
    """
    B, N = observation.input_BND.shape[:2]
    # A program that is being exported has no values yet.
    values = (DEBUG or observation.input_BND.device.type == "cpu") and not torch.compiler.is_exporting()
    problem = _problem(selection, B, N, masked, values)
    if problem:
        raise SelectionError(f"policy {policy}, gate {observation.gate} ({observation.kind}): {problem}")
    return selection


def _problem(selection: Selection, B: int, N: int, masked: bool, values: bool) -> str:
    if not isinstance(selection, Selection):
        return f"a Selection is needed, got {type(selection).__name__}"
    index_BM, mask_BN, score_BN = selection.index_BM, selection.mask_BN, selection.score_BN
    if index_BM is None:
        problem = _problem_of_mask(mask_BN, B, N, masked, values)
    else:
        problem = _problem_of_index(index_BM, selection.valid_BM, B, N)
    if problem or not values:
        return problem
    if index_BM is not None and index_BM.numel() and not selection.ranked:
        problem = _problem_of_indices(index_BM.cpu().numpy(), N)
    # A maximum is NaN if any value is.
    if not problem and score_BN is not None and bool(score_BN.detach().max().isnan()):
        return f"{int(score_BN.isnan().sum())} of {score_BN.numel()} scores are not a number (NaN)"
    return problem


def _problem_of_index(index_BM: Tensor, valid_BM: Tensor | None, B: int, N: int) -> str:
    if not isinstance(index_BM, Tensor):
        return f"index_BM must be a tensor, got {type(index_BM).__name__}"
    if index_BM.dim() != 2 or index_BM.shape[0] != B or index_BM.shape[1] > N:
        return f"index_BM must be ({B}, M) with M at most {N}, got {tuple(index_BM.shape)}"
    if index_BM.dtype != torch.int64:
        return f"index_BM must be int64, got {index_BM.dtype}"
    if valid_BM is not None and (valid_BM.dtype, valid_BM.shape) != (torch.bool, index_BM.shape):
        shapes = f"bool of the shape of index_BM, {tuple(index_BM.shape)}"
        return f"valid_BM must be {shapes}, got {valid_BM.dtype}, {tuple(valid_BM.shape)}"
    return ""


def _problem_of_indices(index_BM: np.ndarray, N: int) -> str:
    if not (index_BM[:, 1:] > index_BM[:, :-1]).all():
        index_BM = np.sort(index_BM, axis=1)
        twice = index_BM[:, 1:][index_BM[:, 1:] == index_BM[:, :-1]]
        if twice.size:
            return f"index {twice[0]} is there twice in one stream"
    for index in (index_BM[:, 0].min(), index_BM[:, -1].max()):
        if not 0 <= index < N:
            return f"index {index} is out of range: tokens are 0 to {N - 1}"
    return ""


def _problem_of_mask(mask_BN: Tensor | None, B: int, N: int, masked: bool, values: bool) -> str:
    if mask_BN is not None and not isinstance(mask_BN, Tensor):
        return f"mask_BN must be a tensor, got {type(mask_BN).__name__}"
    if mask_BN is None or tuple(mask_BN.shape) != (B, N):
        return f"mask_BN must be ({B}, {N}), got {None if mask_BN is None else tuple(mask_BN.shape)}"
    if mask_BN.dtype == torch.bool:
        return ""
    if not masked:
        return f"packed execution needs a bool mask, got {mask_BN.dtype}"
    if not mask_BN.is_floating_point():
        return f"mask_BN must be bool, or float between 0 and 1, got {mask_BN.dtype}"
    if values and not bool(((mask_BN >= 0) & (mask_BN <= 1)).all()):
        return "a relaxed mask must lie between 0 and 1"
    return ""
