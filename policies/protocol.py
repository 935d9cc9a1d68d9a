"""The contract between a gate and a policy: an observation in, a selection of tokens out.

A gate compares its input tokens c with reference tokens u (Eventful Transformers, section 3.1: error e = c - u)
and asks a policy which tokens to update. Policies are pure functions of the observation: whatever they remember
between frames lives in `GateObservation.memory`, which belongs to the stream state and travels with it.

Shape suffixes: B streams, N tokens, M selected tokens, D channels, G gates.
"""

from __future__ import annotations

import abc
import math
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Granularity = Literal["gate", "frame"]
GateKind = Literal["qkv", "proj", "mlp", "frame"]
BLOCK_GATES: tuple[GateKind, ...] = ("qkv", "proj", "mlp")
Budget = float | Tensor


@dataclass(frozen=True)
class Layout:
    """What a policy may know about the model around it: sizes, and what a selection costs.

    Attributes:
        tokens: N, prefix tokens included.
        prefix: How many leading tokens are class or register tokens.
        grid: (rows, columns) of the patch tokens; rows * columns = tokens - prefix.
        dim: D, channels of a token at the gates.
        gates: G, decisions per frame.
        granularity: `gate` (three decisions per block) or `frame` (one decision).
        shares: Share of the dense MACs of a whole frame that is spent when every gate selects M tokens,
            for M = 0..N, without what the policy itself costs; non-decreasing, length N + 1.
        gate_weights: How an update's cost is spread over the gates: G shares that sum to 1; empty for evenly.
        dense: MACs of the dense model per frame and stream; infinite if they are not known.
        ordinary_prefix: Whether class and register tokens are chosen like any other, not wherever another one is.
    """

    tokens: int
    prefix: int
    grid: tuple[int, int]
    dim: int
    gates: int
    granularity: Granularity
    shares: tuple[float, ...]
    gate_weights: tuple[float, ...] = ()
    dense: float = math.inf
    ordinary_prefix: bool = False

    @property
    def pinned(self) -> int:
        """How many leading tokens are updated wherever any other is: the prefix, unless it is ordinary."""
        return 0 if self.ordinary_prefix else self.prefix

    @cached_property
    def _shares_N(self) -> np.ndarray:
        return np.array(self.shares, dtype=np.float64)

    def count(self, budget: float) -> int:
        """The number of tokens per gate whose frame costs closest to `budget`, a share of the dense MACs."""
        return int(np.abs(self._shares_N - budget).argmin())

    def counts(self, budget_B: Tensor) -> Tensor:
        """`count` for each stream: budgets (B,) to token counts (B,), int64."""
        shares = torch.from_numpy(self._shares_N).to(budget_B.device)
        return (shares - budget_B.double()[:, None]).abs().argmin(1)

    def share(self, count: int) -> float:
        """Share of the dense MACs when every gate selects `count` tokens."""
        return self.shares[count]

    def marginal_share(self, gate: int) -> float:
        """Share of the dense MACs that one more token at a gate costs, on average over the lower half of all counts."""
        half = max(self.tokens // 2, 1)
        weight = self.gate_weights[gate] if self.gate_weights else 1 / self.gates
        return (self.shares[half] - self.shares[0]) / half * weight


@dataclass(eq=False)
class GateObservation:
    """What a policy sees at one gate of one frame, for B streams at once.

    Attributes:
        layout: Static facts about the model.
        gate: Index of this gate in the frame, 0 to G - 1.
        kind: `qkv`, `proj` or `mlp` (granularity "gate"), or `frame`.
        input_BND: Current tokens c.
        reference_BND: Reference tokens u: each token when it was last sent on.
        age_BN: Frames since each token was last updated at this gate, at least 1.
        previous_BN: Tokens that the preceding gate of this frame selected (bool), None at the first gate.
        share_B: Realised share of the dense MACs in the preceding frame; about 1 after a flush.
        flushed_B: Streams whose preceding frame was a flush: their share is none of the policy's. None if nobody says.
        memory: What the policy remembers about these streams: tensors with B as first dimension. A policy
            replaces entries (never edits them in place), so that states can be cloned and searched over. A
            stream that joins others has zeros where it remembers nothing yet.
        output_BND: Each token's last output of the whole network (granularity "frame" only).
        key_BNHd: Buffered keys of this block (granularity "gate" only).
        query_BNHd: Buffered queries, likewise.
        saliency_BN: How much the consumer cared for each token in the last frame's outputs, in [0, 1]; 1 for prefix
            tokens. None where nobody says.
        saliency_before_BN: The same one frame earlier; equal to it after a flush.
        motion_B2: How far the picture as a whole has moved since the last frame, rows and columns in tokens; what is
            stale has been moved along. None without motion compensation.
        shared: What policies have computed of keys and queries alone, by name, for all gates until these change.
    """

    layout: Layout
    gate: int
    kind: GateKind
    input_BND: Tensor
    reference_BND: Tensor
    age_BN: Tensor
    previous_BN: Tensor | None = None
    share_B: Tensor | None = None
    flushed_B: Tensor | None = None
    memory: MutableMapping[str, Tensor] = field(default_factory=dict)
    output_BND: Tensor | None = None
    key_BNHd: Tensor | None = None
    query_BNHd: Tensor | None = None
    saliency_BN: Tensor | None = None
    saliency_before_BN: Tensor | None = None
    motion_B2: Tensor | None = None
    shared: MutableMapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def error_BN(self) -> Tensor:
        """L2 norm of e = c - u for every token (B, N), float32."""
        change_BND = self.input_BND - self.reference_BND
        wide = torch.promote_types(change_BND.dtype, torch.float32)
        return torch.linalg.vector_norm(change_BND, dim=-1, dtype=wide).float()

    @property
    def streams(self) -> int:
        """B."""
        return self.input_BND.shape[0]


@dataclass(frozen=True, eq=False)
class Selection:
    """The tokens that a gate updates; exactly one of the two forms is given.

    Attributes:
        index_BM: Token indices, int64, the same number M of different ones for each stream (static shapes).
        mask_BN: Bool, or float in [0, 1] for relaxed masks that carry gradients (masked execution only).
        score_BN: Scores that it was made from, if any: gates refuse those that are no numbers, which nothing exceeds.
        valid_BM: Which of the indices are meant (bool); all if None. The others only fill rows up to a fixed number,
            and what is computed for them is not kept (packed execution only).
        ranked: Whether the indices come from `top`, which makes no mistakes that gates would have to look for.
    """

    index_BM: Tensor | None = None
    mask_BN: Tensor | None = None
    score_BN: Tensor | None = None
    valid_BM: Tensor | None = None
    ranked: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if (self.index_BM is None) == (self.mask_BN is None):
            raise ValueError("a Selection needs exactly one of index_BM and mask_BN")
        if self.index_BM is None and self.valid_BM is not None:
            raise ValueError("valid_BM says which of index_BM are meant, and there is no index_BM")

    @classmethod
    def top(cls, score_BN: Tensor, r: int, prefix: int = 0) -> Selection:
        """The r tokens with the highest scores in each stream; the first `prefix` ones come first and count."""
        r = max(min(r, score_BN.shape[1]), 0)
        index_BM = _ranked(score_BN, r, prefix)
        # Ascending rows make the gathers and scatters that follow walk memory in order.
        return cls._as_ranked(index_BM.sort(dim=1).values, score_BN)

    @classmethod
    def top_errors(cls, observation: GateObservation, r: int) -> Selection:
        """The r tokens with the largest error norms in each stream. No norm is computed where r asks for all tokens."""
        streams, tokens = observation.input_BND.shape[:2]
        if r < tokens:
            return cls.top(observation.error_BN, r, observation.layout.pinned)
        index_N = torch.arange(tokens, device=observation.input_BND.device)
        return cls._as_ranked(index_N.expand(streams, tokens), None)

    @classmethod
    def _as_ranked(cls, index_BM: Tensor, score_BN: Tensor | None) -> Selection:
        made = cls(index_BM=index_BM, score_BN=score_BN)
        object.__setattr__(made, "ranked", True)
        return made

    @classmethod
    def top_counts(cls, score_BN: Tensor, r_B: Tensor, prefix: int = 0) -> Selection:
        """Like `top`, with a count for each stream (B,): what each would select alone, ties included."""
        mask_BN = torch.zeros_like(score_BN, dtype=torch.bool)
        for b, r in enumerate(r_B.clamp(0, score_BN.shape[1]).tolist()):
            mask_BN[b, _ranked(score_BN[b : b + 1], r, prefix)[0]] = True
        return cls(mask_BN=mask_BN, score_BN=score_BN)

    @classmethod
    def where(cls, mask_BN: Tensor, observation: GateObservation, score_BN: Tensor | None = None) -> Selection:
        """A bool mask, made from scores or not, with the pinned tokens added.

        Pinned tokens, the prefix unless it is ordinary, are always brought up to date: they are selected where any
        other token is, or where they have changed themselves. (A class token enters the first block unchanged, but its
        output depends on all others.) Where nothing at all has changed they are left out, so that a static scene costs
        nothing but its gates.
        """
        pinned = observation.layout.pinned
        if pinned:
            changed_BP = observation.error_BN[:, :pinned] > 0
            others_B1 = mask_BN[:, pinned:].any(1, keepdim=True)
            mask_BN = torch.cat([changed_BP | others_B1, mask_BN[:, pinned:]], dim=1)
        return cls(mask_BN=mask_BN, score_BN=score_BN)

    @classmethod
    def all(cls, observation: GateObservation) -> Selection:
        """Every token of every stream."""
        return cls.full(observation, True)

    @classmethod
    def none(cls, observation: GateObservation) -> Selection:
        """No token of any stream."""
        return cls.full(observation, False)

    @classmethod
    def full(cls, observation: GateObservation, value: bool) -> Selection:
        """A constant mask."""
        shape = observation.input_BND.shape[:2]
        return cls(mask_BN=torch.full(shape, value, dtype=torch.bool, device=observation.input_BND.device))

    def as_mask(self, tokens: int) -> Tensor:
        """The selection as a mask (B, N)."""
        if self.mask_BN is not None:
            return self.mask_BN
        index_BM = self._index()
        mask_BN = torch.zeros(index_BM.shape[0], tokens, dtype=torch.bool, device=index_BM.device)
        return mask_BN.scatter_(1, index_BM, True if self.valid_BM is None else self.valid_BM)

    def _index(self) -> Tensor:
        if self.index_BM is None:
            raise ValueError("this Selection is a mask")
        return self.index_BM


def _ranked(score_BN: Tensor, r: int, prefix: int) -> Tensor:
    """Indices of the r highest scores (B, r) in any order; prefix tokens come first, and are all there if any is."""
    if prefix and r:
        r = max(r, prefix)
        score_BN = score_BN.clone()
        score_BN[:, :prefix] = torch.inf
    return score_BN.topk(r, dim=1, sorted=False).indices


class PolicyMismatch(ValueError):  # noqa: N818 (reads as what it is)
    """A policy is used with a model that it was not made for."""


class Policy(abc.ABC):
    """Decides at each gate which tokens to update."""

    @abc.abstractmethod
    def select(self, observation: GateObservation) -> Selection:
        """Chooses the tokens to update at this gate."""

    @property
    def budget(self) -> Budget | None:
        """Target share of the dense MACs; None for policies that have none (`policies.budget`)."""
        return None

    @budget.setter
    def budget(self, budget: Budget) -> None:
        raise AttributeError(f"policy {self.name} has no budget to set: what it spends follows from its own arguments")

    def check(self, gates: int, dim: int, granularity: Granularity) -> None:  # noqa: B027 (most fit any model)
        """Called when the policy is attached to a model.

        Args:
            gates: G, decisions per frame.
            dim: D, channels of a token at the gates.
            granularity: `gate` or `frame`.

        Raises:
            PolicyMismatch: If the policy was made for another model.
        """

    def macs(self, layout: Layout) -> float:
        """Multiply-accumulates that the policy itself spends per gate and stream, beyond the error norm."""
        return 0.0

    def share(self, layout: Layout) -> float:
        """What the policy itself spends in a frame, as a share of the dense MACs."""
        return layout.gates * self.macs(layout) / layout.dense

    @property
    def name(self) -> str:
        """Short name for tables and plots."""
        return type(self).__name__
