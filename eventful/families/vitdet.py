"""ViTDet's backbone, out of timm's SAM image encoder: the same layout, with optional pooling of keys and values.

Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (2022); pooled keys as in Eventful
Transformers, section 5.1: in global blocks, k and v are averaged over 2x2 cells before they meet the queries.

Shape suffixes: B streams, Y rows, X columns, N tokens, K keys, H heads, D channels, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer_sam import Attention, VisionTransformerSAM, get_decomposed_rel_pos_bias
from torch import Tensor, nn


class PooledAttention(Attention):
    """SAM's global attention with keys and values averaged over square cells.

    Args:
        kv_pool: Tokens along one side of a cell. Incomplete cells at the edge are means over what they have.
        options: Arguments of timm's `Attention`, without rotary embeddings.
    """

    def __init__(self, *, kv_pool: int, **options: Any) -> None:
        super().__init__(**options)
        self.kv_pool = kv_pool

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, Y, X, D) to attention outputs of the same shape."""
        B, Y, X, D = x.shape
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(-3)
        q_BNHd, k_BYXHd, v_BYXHd = self.q_norm(q).flatten(1, 2), self.k_norm(k), v
        k_BKHd, v_BKHd = self._pool(k_BYXHd), self._pool(v_BYXHd)
        bias = None
        if self.use_rel_pos:
            flat = q_BNHd.transpose(1, 2).flatten(0, 1)
            keys = (-(-Y // self.kv_pool), -(-X // self.kv_pool))
            bias = get_decomposed_rel_pos_bias(flat, self.rel_pos_h, self.rel_pos_w, (Y, X), keys)
            bias = bias.unflatten(0, (B, self.num_heads))
        out = F.scaled_dot_product_attention(
            q_BNHd.transpose(1, 2), k_BKHd.transpose(1, 2), v_BKHd.transpose(1, 2), attn_mask=bias, scale=self.scale
        )
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(B, Y, X, D)))

    def _pool(self, x_BYXHd: Tensor) -> Tensor:
        H, d = x_BYXHd.shape[-2:]
        pooled = F.avg_pool2d(
            x_BYXHd.flatten(3).permute(0, 3, 1, 2), self.kv_pool, ceil_mode=True, count_include_pad=False
        )
        return pooled.flatten(2).transpose(1, 2).unflatten(2, (H, d))


def vitdet(
    image_size: int = 1024,
    embed_dim: int = 768,
    depth: int = 12,
    heads: int = 12,
    window: int = 14,
    global_blocks: Sequence[int] = (2, 5, 8, 11),
    kv_pool: int = 1,
    patch_size: int = 16,
    device: torch.device | str | None = None,
) -> VisionTransformerSAM:
    """A ViTDet backbone with random weights; its forward returns the features of the last block (B, D, Y, X).

    Args:
        image_size: Side of the frames for which the position tables are made. Other sizes that are multiples of
            `patch_size` work, too: the tables are interpolated.
        embed_dim: D.
        depth: Number of blocks.
        heads: H.
        window: Side of the windows.
        global_blocks: Indices of the blocks with global attention.
        kv_pool: Side of the cells over which the global blocks average keys and values; 1 for no pooling.
        patch_size: Side of a patch in pixels.
        device: Where to make the weights; "meta" for shapes only.

    Returns:
        A timm module without neck and head, so that a feature pyramid can be put behind it.
    """
    vit = VisionTransformerSAM(
        img_size=image_size,
        patch_size=patch_size,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=heads,
        window_size=window,
        global_attn_indexes=tuple(global_blocks),
        use_rel_pos=True,
        num_classes=0,
        neck_chans=0,
        global_pool="",
        device=device,
    )
    vit.neck = nn.Sequential()
    if kv_pool > 1:
        side = image_size // patch_size
        for index in global_blocks:
            vit.blocks[index].attn = PooledAttention(
                kv_pool=kv_pool,
                dim=embed_dim,
                num_heads=heads,
                use_rel_pos=True,
                input_size=(side, side),
                device=device,
            )
    return vit


def vitdet_b(
    image_size: int = 1024, kv_pool: bool = False, device: torch.device | str | None = None
) -> VisionTransformerSAM:
    """ViTDet-B: 12 blocks of 768 channels, windows of 14x14 in all but blocks 2, 5, 8 and 11.

    Args:
        image_size: Side of the frames for which the position tables are made.
        kv_pool: Whether the global blocks average keys and values over 2x2 tokens.
        device: Where to make the weights; "meta" for shapes only.
    """
    return vitdet(image_size, kv_pool=2 if kv_pool else 1, device=device)
