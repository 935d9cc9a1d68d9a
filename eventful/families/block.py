"""One transformer block, taken apart into the operations that eventful inference composes.

A pre-norm block is x + f_proj(attention(f_qkv(norm1(x)))), then x + f_mlp(norm2(x)), with token-wise f. `Block` has
these pieces as functions that look the model's submodules up whenever they are called: what runs is what the model
holds now. The families in this folder fill it in.

Shape suffixes: B streams, N tokens, D channels, H heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from eventful.attention.buffers import QKV
from eventful.attention.protocol import AttentionLayer
from eventful.families import hooks
from eventful.rows import Rows

TokenWise = Callable[[Tensor], Tensor]


def part(block: nn.Module, name: str) -> TokenWise:
    """A submodule of a block as a function that looks it up at each call."""
    return lambda x: getattr(block, name)(x)


@dataclass(frozen=True)
class Block:
    """The parts of a block. Token-wise callables map (..., D) to (..., D).

    Attributes:
        module: The block itself, whose hooks are called.
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
        after: Gives what is added to each token after the block (N, D), such as positions; None for nothing.
    """

    module: nn.Module
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
    after: Callable[[], Tensor] | None = None

    def qkv(self, tokens: Tensor, rows: Rows) -> QKV:
        """Normed tokens of the given rows to q, k, v (..., H, d), positions applied."""
        new = self.project(tokens)
        return new if self.turn is None else self.turn(new, rows)

    @property
    def macs(self) -> float:
        """MACs of all token-wise parts per token."""
        return self.qkv_macs + self.proj_macs + self.mlp_macs

    @property
    def hooked(self) -> bool:
        """Whether anybody sees what the block takes and gives."""
        return bool(self.module._forward_pre_hooks or self.module._forward_hooks) or hooks.watching()

    def enter(self, tokens: Tensor) -> Tensor:
        """What the block's own pre-hooks make of its input (..., D)."""
        tokens = hooks.enter(self.module, tokens) if self.module._forward_pre_hooks else tokens
        hooks.show(tokens, entering=True)
        return tokens

    def leave(self, tokens: Tensor, output: Tensor) -> Tensor:
        """What the block's own hooks make of its output (..., D)."""
        output = hooks.leave(self.module, tokens, output) if self.module._forward_hooks else output
        hooks.show(output)
        return output
