"""How far a model's outputs are from the dense model's on the same frame, as their consumer sees it. No labels.

Each distance is 0 for equal outputs, bounded, symmetric, and has finite gradients everywhere, also where outputs are
equal or probabilities vanish. Tasks make their `output_distance` of these (`envs.task.OptionalParts`).

Shape suffixes: B streams, N tokens, C classes, D channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from eventful.fidelity import distances

_TINY = 1e-7
"""Added under roots: the slope of a root at 0 is infinite."""


def detection_distance(score_BNC: Tensor, dense_score_BNC: Tensor, overlap_BN: Tensor) -> Tensor:
    """Distance of detections at each token.

        sum over classes of (sqrt p - sqrt q)^2  +  min(max p, max q) (1 - overlap)

    The first part is twice the squared Hellinger distance of the scores (as of unnormalised measures), 0 to C: what
    appears, vanishes or changes its class. The second, 0 to 1, is how far a box has moved that both models see.

    Args:
        score_BNC: Scores p of the classes at each token, in [0, 1].
        dense_score_BNC: Scores q of the dense model.
        overlap_BN: IoU of the two models' boxes at each token.

    Returns:
        (B, N) float32, from 0 to C + 1.
    """
    p_BNC, q_BNC = score_BNC.float(), dense_score_BNC.float()
    scores_BN = ((p_BNC + _TINY).sqrt() - (q_BNC + _TINY).sqrt()).square().sum(-1)
    seen_BN = torch.minimum(p_BNC.amax(-1), q_BNC.amax(-1))
    return scores_BN + seen_BN * (1 - overlap_BN.float()).clamp(0, 1)


def class_distance(logits_BC: Tensor, dense_logits_BC: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the class probabilities of frames, in bits.

        (KL(p | m) + KL(q | m)) / 2 / log 2,   m = (p + q) / 2   (Lin, 1991)

    Args:
        logits_BC: Logits of classes that exclude each other.
        dense_logits_BC: Those of the dense model.

    Returns:
        (B, 1) float32, from 0 to 1.
    """
    log_p_BC, log_q_BC = (F.log_softmax(x.float(), dim=-1) for x in (logits_BC, dense_logits_BC))
    log_m_BC = torch.logaddexp(log_p_BC, log_q_BC) - math.log(2)
    both_BC = log_p_BC.exp() * (log_p_BC - log_m_BC) + log_q_BC.exp() * (log_q_BC - log_m_BC)
    return both_BC.sum(-1, keepdim=True).clamp(min=0) / (2 * math.log(2))


def dense_distance(outputs: Tensor, dense_outputs: Tensor) -> Tensor:
    """1 - cosine of the outputs at each token.

    Args:
        outputs: Tokens (B, N, D), a map (B, D, Y, X), or a vector for the frame (B, D).
        dense_outputs: Those of the dense model.

    Returns:
        (B, N) float32, or (B, 1) for vectors; from 0 to 2.
    """
    if outputs.dim() == 2:
        return distances(outputs[:, None], dense_outputs[:, None])
    return distances(outputs, dense_outputs)
