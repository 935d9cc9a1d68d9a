"""One tiny model of each supported family, with weights that make attention matter, and synthetic video for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn

import eventful
from eventful.families.vitdet import vitdet

vit = partial(VisionTransformer, img_size=(40, 48), patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=5)
eva = partial(Eva, img_size=(40, 48), patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=5)
rope = partial(eva, use_rot_pos_emb=True, head_init_scale=1.0)
sam = partial(
    VisionTransformerSAM,
    img_size=(40, 48),
    patch_size=8,
    embed_dim=32,
    depth=3,
    num_heads=2,
    window_size=4,
    global_attn_indexes=(1,),
    neck_chans=16,
    num_classes=5,
)
detector = partial(vitdet, 48, 32, 3, 2, 4, (1,), patch_size=8)

ZOO: dict[str, Callable[[], nn.Module]] = {
    "ViT": vit,
    "DeiT, distilled": partial(
        VisionTransformerDistilled, img_size=(40, 48), patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=5
    ),
    "DeiT III": partial(vit, no_embed_class=True, init_values=0.5),
    "DINOv2 with registers": partial(vit, init_values=0.5, reg_tokens=4, no_embed_class=True, dynamic_img_size=True),
    "CLIP image tower": partial(vit, pre_norm=True, act_layer="quick_gelu", norm_layer=nn.LayerNorm),
    "SigLIP image tower": partial(vit, class_token=False, global_pool="map", num_classes=0),
    "ViT, qk-norm, no position table": partial(vit, qk_norm=True, scale_attn_norm=True, pos_embed="none"),
    "ViT, residual post-norm": partial(vit, block_fn=ResPostBlock, init_values=0.5),
    "EVA, post-norm": partial(eva, use_post_norm=True, use_abs_pos_emb=True, head_init_scale=1.0),
    "EVA-02": partial(rope, qkv_fused=False, swiglu_mlp=True, scale_mlp=True, ref_feat_shape=(4, 4)),
    "EVA-02, fused, inner norm": partial(rope, swiglu_mlp=True, scale_attn_inner=True),
    "DINOv3": partial(
        rope, rope_type="dinov3", rope_rotate_half=True, num_reg_tokens=4, no_embed_class=True, use_abs_pos_emb=False,
        init_values=0.5, qkv_bias=True, dynamic_img_size=True,
    ),
    "ViT, mixed RoPE": partial(rope, rope_type="mixed", rope_grid_indexing="xy", no_embed_class=True),
    "Perception Encoder": partial(
        rope, use_pre_transformer_norm=True, attn_type="rope", global_pool="map", rope_grid_offset=1.0, init_values=0.5
    ),
    "Sapiens2 (grouped queries)": partial(
        rope, rope_type="dinov3", attn_type="rope", qkv_fused=False, num_kv_heads=1, qk_norm=True, swiglu_mlp=True,
        attn_only_layer_scale=True, init_values=0.5,
    ),
    "NaFlexVit": partial(
        NaFlexVit, NaFlexVitCfg(patch_size=8, embed_dim=32, depth=2, num_heads=2, reg_tokens=1, global_pool="map"),
        num_classes=5,
    ),
    "SAM image encoder": partial(sam, use_rel_pos=True),
    "SAM layout with RoPE": partial(sam, use_rope=True),
    "ViTDet": detector,
    "ViTDet, pooled keys": partial(detector, kv_pool=2),
}  # fmt: skip


def build(name: str, seed: int = 0) -> nn.Module:
    """The model, in evaluation mode, with weights large enough for every part to have a say."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ZOO[name]()
        with torch.no_grad():
            for weight_name, weight in model.named_parameters():
                if "rel_pos" in weight_name:
                    nn.init.normal_(weight, std=0.5)
                elif weight.dim() > 1 and "freqs" not in weight_name:
                    nn.init.normal_(weight, std=0.15 if "qkv" not in weight_name else 0.3)
                elif "bias" in weight_name:
                    nn.init.normal_(weight, std=0.1)
    return model.eval()


def clip(frames: int, streams: int = 1, seed: int = 0, size: tuple[int, int] | None = None) -> list[Tensor]:
    """Video of noise in which one patch-sized area changes from frame to frame."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size or (40, 48)
    frame = torch.randn(streams, 3, height, width, generator=generator)
    video = [frame]
    for _ in range(frames - 1):
        frame = frame.clone()
        for b in range(streams):
            y, x = (int(torch.randint(0, side - 11, (), generator=generator)) for side in (height, width))
            frame[b, :, y : y + 12, x : x + 12] = torch.randn(3, 12, 12, generator=generator)
        video.append(frame)
    return video


STATEFUL: dict[str, dict[str, Any]] = {
    "exact": {},
    "paper": {"attention": "paper"},
    "recompute": {"attention": "recompute"},
    "frame": {"granularity": "frame"},
    "previous": {"reference": "previous"},
}
"""Options of `eventful.wrap` by a short name."""


def play(model: eventful.EventfulModel, frames: list[Tensor]) -> list[Tensor]:
    """Outputs of consecutive frames."""
    with torch.inference_mode():
        return [model(frame) for frame in frames]


def assert_rows(ours: list[Tensor], theirs: list[Tensor], order: list[int]) -> None:
    """Each of ours is the rows `order` of each of theirs."""
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other[order], atol=1e-5, rtol=1e-4)
