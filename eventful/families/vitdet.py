"""ViTDet's backbone, out of timm's SAM image encoder: the same layout, with what the published models do otherwise.

Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (2022), and its use in Eventful
Transformers (2023), section 5.1. Layer norms have an epsilon of 1e-6; the table of positions, learned on few patches,
is enlarged by plain bicubic interpolation; relative positions follow one of two rules where the grid is not the one
that they were learned on (`eventful.attention.relative`); keys and values can be averaged over 2x2 cells.

Shape suffixes: B streams, Y rows, X columns, N tokens, K keys, Q queries along an axis, H heads, D channels,
d channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models.vision_transformer_sam import Attention, VisionTransformerSAM
from torch import Tensor, nn

from eventful.attention.derived import Derived
from eventful.attention.relative import RelativeResize, bias_axes, relative_array
from eventful.families.stem import PATCH as STEM_PATCH
from eventful.families.stem import conv_stem

Stem = Literal["patch", "conv"]
"""What makes tokens of pixels."""


class PositionedPatchEmbed(PatchEmbed):
    """Patch embedding that adds a learned position to each token, from a table of its own size.

    Args:
        embed_dim: D.
        position_side: Rows, and columns, of the table.
        stem: What makes tokens of pixels: one convolution (`patch`) or a stack (`conv`, `eventful.families.stem`).
        options: Other arguments of timm's `PatchEmbed`.
    """

    def __init__(self, *, embed_dim: int, position_side: int, stem: Stem, **options: Any) -> None:
        super().__init__(embed_dim=embed_dim, output_fmt="NHWC", strict_img_size=False, **options)
        side, like = position_side, self.proj.weight
        if stem == "conv":
            with like.device:
                self.proj = conv_stem(embed_dim)  # type: ignore[assignment]  # timm has a single convolution here
        self.pos_embed = nn.Parameter(like.new_zeros(1, side, side, embed_dim))
        self._resized: Derived[Tensor] = Derived()

    def forward(self, x: Tensor) -> Tensor:
        """Frames (B, 3, height, width) to tokens (B, Y, X, D)."""
        x_BYXD = super().forward(x)
        Y, X = x_BYXD.shape[1:3]
        return x_BYXD + self._resized.get([self.pos_embed], lambda: self._resize(Y, X), Y, X)

    def _resize(self, Y: int, X: int) -> Tensor:
        table = self.pos_embed
        if table.shape[1:3] == (Y, X):
            return table
        exact = table.to(torch.promote_types(table.dtype, torch.float32)).permute(0, 3, 1, 2)
        resized = F.interpolate(exact, size=(Y, X), mode="bicubic", align_corners=False)
        return resized.permute(0, 2, 3, 1).to(table.dtype).contiguous()


class ViTDetAttention(Attention):
    """SAM's global attention by the rules of the published ViTDet models.

    Args:
        relative_resize: What is stretched on a grid that the relative positions were not made for.
        kv_pool: Tokens along one side of the cells over which keys and values are averaged, 1 for no pooling.
            Incomplete cells at the edge are means over what they have.
        options: Arguments of timm's `Attention`, without rotary embeddings.
    """

    def __init__(self, *, relative_resize: RelativeResize, kv_pool: int, **options: Any) -> None:
        super().__init__(use_rel_pos=True, **options)
        self.relative_resize, self.kv_pool = relative_resize, kv_pool
        self._arrays: Derived[tuple[Tensor, Tensor]] = Derived()

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, Y, X, D) to attention outputs of the same shape."""
        B, Y, X, D = x.shape
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(-3)
        q_BYXHd, k_BKHd, v_BKHd = self.q_norm(q), self._pool(self.k_norm(k)), self._pool(v)
        rows_QKd, columns_QKd = self.relative_arrays((Y, X))
        axes_BHNA = bias_axes(q_BYXHd, rows_QKd, columns_QKd).flatten(1, 2).transpose(1, 2)
        axes_h, axes_w = axes_BHNA.split([rows_QKd.shape[1], columns_QKd.shape[1]], dim=-1)
        out = F.scaled_dot_product_attention(
            q_BYXHd.flatten(1, 2).transpose(1, 2),
            k_BKHd.transpose(1, 2),
            v_BKHd.transpose(1, 2),
            attn_mask=(axes_h[..., :, None] + axes_w[..., None, :]).flatten(-2),
            scale=self.scale,
        )
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(B, Y, X, D)))

    def relative_arrays(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """R[q, k] (Q, K, d) for the rows and for the columns of a grid of tokens, keys pooled if they are."""
        tables = rows_Ld, columns_Ld = self.rel_pos_h, self.rel_pos_w
        rule = (self.relative_resize, self.kv_pool)
        return self._arrays.get(
            tables,
            lambda: (relative_array(rows_Ld, grid[0], *rule), relative_array(columns_Ld, grid[1], *rule)),
            grid,
            rule,
        )

    def _pool(self, x_BYXHd: Tensor) -> Tensor:
        if self.kv_pool == 1:
            return x_BYXHd.flatten(1, 2)
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
    position_side: int | None = None,
    relative_side: int | None = None,
    relative_resize: RelativeResize = "array",
    stem: Stem = "patch",
) -> VisionTransformerSAM:
    """A ViTDet backbone with random weights; its forward returns the features of the last block (B, D, Y, X).

    Args:
        image_size: Side of the frames. Other sizes that are multiples of `patch_size` work, too: what is learned for
            another grid is stretched to the one in use.
        embed_dim: D.
        depth: Number of blocks.
        heads: H.
        window: Side of the windows.
        global_blocks: Indices of the blocks with global attention.
        kv_pool: Side of the cells over which the global blocks average keys and values; 1 for no pooling.
        patch_size: Side of a patch in pixels.
        device: Where to make the weights; "meta" for shapes only.
        position_side: Side, in tokens, of the table of positions; that of the frames if None.
        relative_side: Side, in tokens, of the grid that the relative positions of global blocks are made for; that of
            the frames if None.
        relative_resize: What is stretched where the grid is another: "array", as in the code of Eventful
            Transformers, whose published figures at 672 pixels belong to it, or "table", as in timm and detectron2.
        stem: What makes tokens of pixels: "patch", one convolution, or "conv", a short stack for patches of 16.

    Returns:
        A timm module without neck and head, so that a feature pyramid can be put behind it.

    Raises:
        ValueError: If `relative_resize` or `stem` is none of the two, or the stem does not make patches of that size.
    """
    if stem not in get_args(Stem):
        raise ValueError(f"stem must be 'patch' or 'conv', got {stem!r}")
    if stem == "conv" and patch_size != STEM_PATCH:
        raise ValueError(f"stem='conv' has patches of {STEM_PATCH} pixels, asked for {patch_size}")
    if relative_resize not in ("array", "table"):
        raise ValueError(f"relative_resize must be 'array' or 'table', got {relative_resize!r}")
    side = image_size // patch_size
    vit = VisionTransformerSAM(
        img_size=image_size,
        patch_size=patch_size,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=heads,
        embed_layer=partial(PositionedPatchEmbed, position_side=position_side or side, stem=stem),  # type: ignore[arg-type]
        norm_layer=partial(nn.LayerNorm, eps=1e-6),  # type: ignore[arg-type]  # timm calls it
        use_abs_pos=False,
        window_size=window,
        global_attn_indexes=tuple(global_blocks),
        use_rel_pos=True,
        num_classes=0,
        neck_chans=0,
        global_pool="",
        device=device,
    )
    vit.neck = nn.Sequential()
    for index in global_blocks:
        vit.blocks[index].attn = ViTDetAttention(
            relative_resize=relative_resize,
            kv_pool=kv_pool,
            dim=embed_dim,
            num_heads=heads,
            input_size=(relative_side or side,) * 2,
            device=device,
        )
    return vit


def vitdet_b(
    image_size: int = 1024,
    kv_pool: bool = False,
    device: torch.device | str | None = None,
    relative_resize: RelativeResize = "array",
) -> VisionTransformerSAM:
    """ViTDet-B: 12 blocks of 768 channels, windows of 14x14 in all but blocks 2, 5, 8 and 11.

    Its weights are the same for all sizes of frames: a table of 14x14 positions, relative ones for 64x64.

    Args:
        image_size: Side of the frames.
        kv_pool: Whether the global blocks average keys and values over 2x2 tokens.
        device: Where to make the weights; "meta" for shapes only.
        relative_resize: What is stretched for frames of other than 1024 pixels; see `vitdet`.
    """
    return vitdet(
        image_size,
        kv_pool=2 if kv_pool else 1,
        device=device,
        position_side=14,
        relative_side=64,
        relative_resize=relative_resize,
    )
