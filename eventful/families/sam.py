"""`timm.models.VisionTransformerSAM`: SAM's image encoder, and ViTDet, which has the same layout.

Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (2022); Kirillov et al., "Segment
Anything" (2023). Windowed blocks with padding, a few global ones, decomposed relative positions or rotary embeddings,
tokens on a grid without class token, a convolutional neck. Composed from timm's own submodules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed_nhwc
from timm.models.vision_transformer_sam import Attention, VisionTransformerSAM
from timm.models.vision_transformer_sam import Block as TimmBlock
from torch import Tensor, nn

from eventful.attention.buffers import QKV
from eventful.attention.cells import Cells
from eventful.attention.derived import Derived
from eventful.attention.full import FullAttention
from eventful.attention.grid import GridAttention
from eventful.attention.pooling import KeyPooling
from eventful.attention.protocol import AttentionLayer
from eventful.attention.relative import RelativePositions, relative_array
from eventful.attention.rotary import RopeTable
from eventful.attention.windowed import WindowedAttention
from eventful.errors import UnsupportedModel
from eventful.families.backbone import Backbone
from eventful.families.block import Block, part
from eventful.families.checks import check_forward, check_patch_drop, patch_grid
from eventful.families.vitdet import ViTDetAttention
from eventful.macs.ledger import linear_macs
from eventful.rows import AllRows

Grid = tuple[int, int]


class SAMBackbone(Backbone):
    """A windowed vision transformer on a grid of tokens."""

    title = "timm VisionTransformerSAM"

    @staticmethod
    def takes(vit: nn.Module) -> bool:
        """Whether the model belongs to this family."""
        return isinstance(vit, VisionTransformerSAM)

    def __init__(self, vit: nn.Module) -> None:
        if not isinstance(vit, VisionTransformerSAM):
            raise UnsupportedModel(f"{type(vit).__name__} is not a {self.title}")
        check_forward(vit, VisionTransformerSAM)
        check_patch_drop(vit.patch_drop)
        self._blocks = [_checked(block, f"blocks.{i}") for i, block in enumerate(vit.blocks)]
        super().__init__(vit, vit.embed_dim, prefix=0)

    def grid(self, size: tuple[int, int]) -> Grid:
        """See `Backbone.grid`."""
        return patch_grid(self.vit.patch_embed, size)

    def blocks(self, grid: Grid) -> Sequence[Block]:
        """See `Backbone.blocks`."""
        cut = {side: Cells(grid, side) for side in {block.window_size for block in self._blocks} - {0}}
        return [_adapt(block, grid, cut.get(block.window_size)) for block in self._blocks]

    def embed(self, frame: Tensor) -> Tensor:
        """See `Backbone.embed`."""
        x_BYXD = self.vit.patch_embed(frame)
        if self.vit.pos_embed is not None:
            x_BYXD = x_BYXD + resample_abs_pos_embed_nhwc(self.vit.pos_embed, x_BYXD.shape[1:3])
        return self.vit.norm_pre(x_BYXD).flatten(1, 2)

    def finish(self, tokens: Tensor) -> Tensor:
        """See `Backbone.finish`."""
        return tokens

    def features(self, tokens_BND: Tensor, size: tuple[int, int]) -> Tensor:
        """See `Backbone.features`."""
        return self.vit.neck(tokens_BND.unflatten(1, self.grid(size)).permute(0, 3, 1, 2))

    def head(self, features: Tensor) -> Any:
        """See `Backbone.head`."""
        return self.vit.forward_head(features)


def _checked(block: nn.Module, where: str) -> TimmBlock:
    if type(block) is not TimmBlock:
        raise UnsupportedModel(f"{where}: {type(block).__name__} is not SAM's pre-norm Block")
    if type(block.attn) not in (Attention, ViTDetAttention):
        raise UnsupportedModel(f"{where}.attn: {type(block.attn).__name__} is neither SAM's nor ViTDet's")
    if isinstance(block.attn, ViTDetAttention) and (block.window_size or block.attn.rope is not None):
        raise UnsupportedModel(f"{where}.attn: ViTDet's attention is global and has no rotary embeddings")
    return block


def _adapt(block: TimmBlock, grid: Grid, windows: Cells | None) -> Block:
    """A block of SAM's ViT, taken apart, for one grid of tokens."""
    attn = block.attn
    rope = None
    if attn.rope is not None:
        area = grid if windows is None else (windows.side, windows.side)
        rope = RopeTable(attn.rope, area, prefix=0, place=None if windows is None else windows.place_N)

    def project(tokens: Tensor) -> QKV:
        return _project(attn, tokens)

    def proj(out: Tensor) -> Tensor:
        return block.ls1(attn.proj(out))

    def mlp(tokens: Tensor) -> Tensor:
        return block.ls2(block.mlp(tokens))

    return Block(
        module=block,
        norm1=part(block, "norm1"),
        project=project,
        turn=None if rope is None else rope.turn,
        attention=_attention(block, grid, windows),
        proj=proj,
        norm2=part(block, "norm2"),
        mlp=mlp,
        qkv_macs=linear_macs(attn.qkv),
        proj_macs=linear_macs(attn.proj),
        mlp_macs=linear_macs(block.mlp),
    )


def _attention(block: TimmBlock, grid: Grid, windows: Cells | None) -> AttentionLayer:
    attn = block.attn
    size = (attn.num_heads, attn.head_dim, attn.scale)
    pooling = KeyPooling(grid, attn.kv_pool) if isinstance(attn, ViTDetAttention) and attn.kv_pool > 1 else None
    positions = None
    if attn.use_rel_pos:
        queries = grid if windows is None else (windows.side, windows.side)
        keys = queries if pooling is None else pooling.cells.grid
        positions = RelativePositions(_arrays(attn, queries), queries, keys)
    if windows is not None:
        return WindowedAttention(*size, windows, _padding(block, windows), positions)
    if positions is None and pooling is None:
        return FullAttention(*size)
    return GridAttention(*size, grid[0] * grid[1], positions, pooling)


def _arrays(attn: Attention, grid: Grid) -> Callable[[], tuple[Tensor, Tensor]]:
    """Relative positions by the rule of the layer: ViTDet's own, or timm's."""
    if isinstance(attn, ViTDetAttention):
        return lambda: attn.relative_arrays(grid)
    kept: Derived[tuple[Tensor, Tensor]] = Derived()

    def arrays() -> tuple[Tensor, Tensor]:
        rows_Ld, columns_Ld = tables = attn.rel_pos_h, attn.rel_pos_w
        return kept.get(
            tables, lambda: (relative_array(rows_Ld, grid[0], "table"), relative_array(columns_Ld, grid[1], "table"))
        )

    return arrays


def _project(attn: Attention, tokens: Tensor) -> QKV:
    q, k, v = attn.qkv(tokens).unflatten(-1, (3, attn.num_heads, attn.head_dim)).unbind(-3)
    return attn.q_norm(q), attn.k_norm(k), v


def _padding(block: TimmBlock, windows: Cells) -> Callable[[], QKV]:
    """What the projection makes of tokens that are zero, at every place of a window."""

    def padding() -> QKV:
        attn, like = block.attn, next(block.parameters())
        q, k, v = _project(attn, torch.zeros(1, 1, attn.qkv.in_features, dtype=like.dtype, device=like.device))
        if attn.rope is not None:
            everywhere = AllRows(1, windows.places, in_place=False)
            q, k, v = (x.expand(-1, windows.places, -1, -1) for x in (q, k, v))
            q, k, v = RopeTable(attn.rope, (windows.side, windows.side), prefix=0).turn((q, k, v), everywhere)
        return q[0], k[0], v[0]

    return padding
