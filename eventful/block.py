"""One transformer block, taken apart into the operations that eventful inference composes.

A pre-norm block is x + f_proj(attention(f_qkv(norm1(x)))), then x + f_mlp(norm2(x)), with token-wise f. `Block` holds
these pieces as callables over the model's own submodules; the families in `eventful.families` fill it in.

Shape suffixes: B streams, N tokens, D channels, H heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from eventful.attention.buffers import QKV
from eventful.attention.protocol import AttentionLayer
from eventful.rows import Rows

TokenWise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Block:
    """The parts of a block. Token-wise callables map (..., D) to (..., D).

    Attributes:
        norm1: Before attention.
        project: Normed tokens to q, k, v (..., H, d), token by token.
        turn: Applies positions to q, k, v of the given rows; None where there are none to apply.
        attention: How rows attend to each other, and how that is updated.
        proj: Attention outputs (..., H * d) to what is added to x: output projection, layer scale.
        norm2: Before the MLP.
        mlp: Normed tokens to what is added to x: MLP, layer scale.
        qkv_macs: MACs of `project` per token.
        proj_macs: MACs of `proj` per token.
        mlp_macs: MACs of `mlp` per token.
    """

    norm1: TokenWise
    project: Callable[[Tensor], QKV]
    turn: Callable[[QKV, Rows], QKV] | None
    attention: AttentionLayer
    proj: TokenWise
    norm2: TokenWise
    mlp: TokenWise
    qkv_macs: float
    proj_macs: float
    mlp_macs: float

    def qkv(self, tokens: Tensor, rows: Rows) -> QKV:
        """Normed tokens of the given rows to q, k, v (..., H, d), positions applied."""
        new = self.project(tokens)
        return new if self.turn is None else self.turn(new, rows)
