"""`timm.models.VisionTransformer`: ViT, DeiT, DINOv2 (with registers), CLIP and SigLIP image towers.

Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021), composed from timm's own submodules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers import Attention
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import Tensor, nn

from eventful.attention.buffers import QKV
from eventful.attention.full import FullAttention
from eventful.errors import UnsupportedModel
from eventful.families.backbone import Backbone
from eventful.families.block import Block, TokenWise, part
from eventful.families.checks import check_forward, check_patch_drop, check_ungated, patch_grid
from eventful.macs.ledger import linear_macs


class ViTBackbone(Backbone):
    """A plain vision transformer with pre-norm blocks and global attention."""

    title = "timm VisionTransformer"
    kind: type[Any] = VisionTransformer

    @classmethod
    def takes(cls, vit: nn.Module) -> bool:
        """Whether the model belongs to this family."""
        return isinstance(vit, cls.kind)

    def __init__(self, vit: Any) -> None:
        if not self.takes(vit):
            raise UnsupportedModel(f"{type(vit).__name__} is not a {self.title}")
        check_forward(vit, self.kind)
        check_patch_drop(vit.patch_drop)
        self._blocks = [adapt_block(block, f"blocks.{i}") for i, block in enumerate(vit.blocks)]
        super().__init__(vit, vit.embed_dim, vit.num_prefix_tokens)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """See `Backbone.grid`."""
        return patch_grid(self.vit.patch_embed, size)

    def blocks(self, grid: tuple[int, int]) -> Sequence[Block]:
        """See `Backbone.blocks`; they are the same for all grids."""
        return self._blocks

    def embed(self, frame: Tensor) -> Tensor:
        """See `Backbone.embed`."""
        return self.vit.norm_pre(self.vit._pos_embed(self.vit.patch_embed(frame)))

    def finish(self, tokens: Tensor) -> Tensor:
        """See `Backbone.finish`."""
        return self.vit.norm(tokens)

    def features(self, tokens_BND: Tensor, size: tuple[int, int]) -> Tensor:
        """See `Backbone.features`."""
        return tokens_BND

    def head(self, features: Tensor) -> Any:
        """See `Backbone.head`."""
        return self.vit.forward_head(features)


def adapt_block(block: nn.Module, where: str) -> Block:
    """A timm pre-norm or residual-post-norm block with plain attention, taken apart.

    Raises:
        UnsupportedModel: Naming the submodule that is in the way.
    """
    if not (type(block) is TimmBlock or type(block) is ResPostBlock):
        raise UnsupportedModel(f"{where}: {type(block).__name__} is neither timm's Block nor its ResPostBlock")
    attn = block.attn
    if type(attn) is not Attention:
        raise UnsupportedModel(f"{where}.attn: {type(attn).__name__} is not timm's plain Attention")
    check_ungated(attn, where)

    def project(tokens: Tensor) -> QKV:
        q, k, v = attn.qkv(tokens).unflatten(-1, (3, attn.num_heads, attn.head_dim)).unbind(-3)
        return attn.q_norm(q), attn.k_norm(k), v

    norm1, norm2, after_proj, after_mlp = _norms_and_scales(block)

    def proj(out: Tensor) -> Tensor:
        return after_proj(attn.proj(attn.norm(out)))

    def mlp(tokens: Tensor) -> Tensor:
        return after_mlp(block.mlp(tokens))

    return Block(
        module=block,
        norm1=norm1,
        project=project,
        turn=None,
        attention=FullAttention(attn.num_heads, attn.head_dim, attn.scale),
        proj=proj,
        norm2=norm2,
        mlp=mlp,
        qkv_macs=linear_macs(attn.qkv),
        proj_macs=linear_macs(attn.proj),
        mlp_macs=linear_macs(block.mlp),
    )


def _norms_and_scales(block: TimmBlock | ResPostBlock) -> tuple[TokenWise, TokenWise, TokenWise, TokenWise]:
    """What comes before attention and MLP, and what after. Norms after a branch are token-wise parts of it."""
    if isinstance(block, ResPostBlock):
        return nn.Identity(), nn.Identity(), part(block, "norm1"), part(block, "norm2")
    return part(block, "norm1"), part(block, "norm2"), part(block, "ls1"), part(block, "ls2")
