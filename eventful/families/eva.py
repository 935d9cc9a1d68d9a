"""`timm.models.Eva`: EVA, EVA-02, DINOv3, Perception Encoder and other vision transformers with rotary embeddings.

Fang et al., "EVA-02" (2023); Siméoni et al., "DINOv3" (2025); Heo et al., "Rotary Position Embedding for Vision
Transformer" (2024). Fused or separate q, k, v; SwiGLU MLPs with inner norms; pre-norm and post-norm blocks; rotary
embeddings for all blocks or learned for each, applied before k is buffered. Composed from timm's own submodules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import AttentionRope
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from torch import Tensor, nn

from eventful.attention.buffers import QKV
from eventful.attention.full import FullAttention
from eventful.attention.rotary import RopeTable
from eventful.errors import UnsupportedModel
from eventful.families.backbone import Backbone
from eventful.families.block import Block, TokenWise, part
from eventful.families.checks import check_forward, check_patch_drop, check_ungated, patch_grid
from eventful.macs.ledger import linear_macs


class EvaBackbone(Backbone):
    """A vision transformer with global attention, and rotary embeddings or none."""

    title = "timm Eva"

    @staticmethod
    def takes(vit: nn.Module) -> bool:
        """Whether the model belongs to this family."""
        return isinstance(vit, Eva)

    def __init__(self, vit: nn.Module) -> None:
        if not isinstance(vit, Eva):
            raise UnsupportedModel(f"{type(vit).__name__} is not a {self.title}")
        check_forward(vit, Eva)
        check_patch_drop(vit.patch_drop)
        self._blocks = [_checked(block, f"blocks.{i}") for i, block in enumerate(vit.blocks)]
        super().__init__(vit, vit.embed_dim, vit.num_prefix_tokens)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """See `Backbone.grid`."""
        return patch_grid(self.vit.patch_embed, size)

    def blocks(self, grid: tuple[int, int]) -> Sequence[Block]:
        """See `Backbone.blocks`."""
        if self.vit.rope is None:
            return [_adapt(block, None) for block in self._blocks]
        half = self._blocks[0].attn.rotate_half
        if self.vit.rope_mixed:
            ropes = [RopeTable(self.vit.rope, grid, self.prefix, i, half) for i in range(len(self._blocks))]
        else:
            ropes = [RopeTable(self.vit.rope, grid, self.prefix, None, half)] * len(self._blocks)
        return [_adapt(block, rope) for block, rope in zip(self._blocks, ropes, strict=True)]

    def embed(self, frame: Tensor) -> Tensor:
        """See `Backbone.embed`."""
        tokens_BND, _ = self.vit._pos_embed(self.vit.patch_embed(frame))
        return self.vit.norm_pre(tokens_BND)

    def finish(self, tokens: Tensor) -> Tensor:
        """See `Backbone.finish`."""
        return self.vit.norm(tokens)

    def features(self, tokens_BND: Tensor, size: tuple[int, int]) -> Tensor:
        """See `Backbone.features`."""
        return tokens_BND

    def head(self, features: Tensor) -> Any:
        """See `Backbone.head`."""
        return self.vit.forward_head(features)

    def _opened(self, blocks: Sequence[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
        attns = super()._opened(blocks)
        return attns + [(f"{name}.qkv", attn.get_submodule("qkv")) for name, attn in attns if _biases_apart(attn)]


def _checked(block: nn.Module, where: str) -> EvaBlock | EvaBlockPostNorm:
    if not (type(block) is EvaBlock or type(block) is EvaBlockPostNorm):
        raise UnsupportedModel(f"{where}: {type(block).__name__} is neither EvaBlock nor EvaBlockPostNorm")
    attn: nn.Module = block.attn
    if type(attn) not in (EvaAttention, AttentionRope):
        raise UnsupportedModel(f"{where}.attn: {type(attn).__name__} is neither EvaAttention nor AttentionRope")
    check_ungated(attn, where)
    return block


def _adapt(block: EvaBlock | EvaBlockPostNorm, rope: RopeTable | None) -> Block:
    """A block taken apart. Where the norms come after a branch, they are token-wise parts of it."""
    attn = block.attn
    groups = getattr(attn, "num_kv_groups", 1)
    norm1, norm2 = part(block, "norm1"), part(block, "norm2")
    after_proj, after_mlp = _layer_scale(block, "gamma_1"), _layer_scale(block, "gamma_2")
    if isinstance(block, EvaBlockPostNorm):
        norm1, norm2, after_proj, after_mlp = nn.Identity(), nn.Identity(), norm1, norm2

    def project(tokens: Tensor) -> QKV:
        q, k, v = _project(attn, tokens)
        # Heads that share keys get a copy each: attention knows no groups.
        return (q, k, v) if groups == 1 else (q, k.repeat_interleave(groups, -2), v.repeat_interleave(groups, -2))

    def proj(out: Tensor) -> Tensor:
        return after_proj(attn.proj(attn.norm(out)))

    def mlp(tokens: Tensor) -> Tensor:
        return after_mlp(block.mlp(tokens))

    return Block(
        module=block,
        norm1=norm1,
        project=project,
        turn=None if rope is None else rope.turn,
        attention=FullAttention(attn.num_heads, attn.head_dim, attn.scale),
        proj=proj,
        norm2=norm2,
        mlp=mlp,
        qkv_macs=linear_macs(attn.qkv, attn.q_proj, attn.k_proj, attn.v_proj),
        proj_macs=linear_macs(attn.proj),
        mlp_macs=linear_macs(block.mlp),
    )


def _project(attn: EvaAttention | AttentionRope, tokens: Tensor) -> QKV:
    if attn.qkv is None:
        q, k, v = (p(tokens).unflatten(-1, (-1, attn.head_dim)) for p in (attn.q_proj, attn.k_proj, attn.v_proj))
    else:
        if isinstance(attn, EvaAttention) and _biases_apart(attn):
            # As timm does it, around the module; it keeps no bias for keys: a buffer of zeros stands in for it.
            q_bias, v_bias = attn.get_parameter("q_bias"), attn.get_parameter("v_bias")
            bias = torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
            new = F.linear(tokens, attn.qkv.weight, bias)
        else:
            new = attn.qkv(tokens)
        q, k, v = new.unflatten(-1, (3, attn.num_heads, attn.head_dim)).unbind(-3)
    return attn.q_norm(q), attn.k_norm(k), v


def _biases_apart(attn: nn.Module) -> bool:
    return attn.qkv is not None and getattr(attn, "q_bias", None) is not None


def _layer_scale(block: nn.Module, name: str) -> TokenWise:
    if getattr(block, name, None) is None:
        return nn.Identity()
    # The parameter is looked up at each use: moving a module may replace it.
    return lambda out: getattr(block, name) * out
