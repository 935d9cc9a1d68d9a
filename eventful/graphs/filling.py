"""Selections of any number of tokens as a fixed number of rows: those that are meant, and others that fill them up.

Shape suffixes: B streams, N tokens, M rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from policies.protocol import GateObservation, Policy, Selection


def filled(selection: Selection, tokens: int, size: int, pinned: int) -> Selection:
    """A selection as a fixed number of rows.

    Where more tokens are selected than there are rows, those with the highest scores are taken, the pinned ones first.

    Args:
        selection: Of any number of tokens.
        tokens: N.
        size: Number of rows M.
        pinned: How many leading tokens are updated wherever any other is.
    """
    mask_BN = selection.as_mask(tokens)
    score_BN = torch.zeros_like(mask_BN, dtype=torch.float32) if selection.score_BN is None else selection.score_BN
    score_BN = score_BN.float().masked_fill(~mask_BN, -torch.inf)
    score_BN[:, :pinned] = score_BN[:, :pinned].masked_fill(mask_BN[:, :pinned], torch.inf)
    index_BM = score_BN.topk(size, dim=1, sorted=False).indices.sort(dim=1).values
    return Selection(index_BM=index_BM, valid_BM=mask_BN.gather(1, index_BM))


class Filling:
    """What a policy selects, as a fixed number of rows.

    Args:
        policy: Whoever decides.
        size: Number of rows of every gate.
    """

    def __init__(self, policy: Policy, size: int) -> None:
        self._policy, self._size = policy, size
        self._asked: list[Tensor] = []

    def __call__(self, observation: GateObservation) -> Selection:
        """Decides at a gate."""
        selection, layout = self._policy.select(observation), observation.layout
        self._asked.append(selection.as_mask(layout.tokens).sum(1).amax())
        return filled(selection, layout.tokens, self._size, layout.pinned)

    def demand(self) -> Tensor:
        """The largest number of tokens that the policy has selected at a gate of a stream since this was last asked."""
        asked, self._asked = self._asked, []
        return torch.stack(asked).amax()
