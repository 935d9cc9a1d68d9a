"""One tiny model of each supported tower of `transformers`, with weights that make attention matter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import nn

SIZE = (48, 48)

BASE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 48,
    "patch_size": 8,
}
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 50,
    "max_position_embeddings": 8,
    "projection_size": 32,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
TWO: dict[str, Any] = {"text_config": TEXT, "vision_config": BASE, "num_labels": 5}
DINO = BASE | {"mlp_ratio": 2, "num_labels": 5}
YOLOS = BASE | {"image_size": [48, 48], "num_detection_tokens": 5, "num_labels": 3}


def of(model: Callable[[Any], nn.Module], config: Callable[..., Any], **settings: Any) -> Callable[[], nn.Module]:
    """Makes the model of a configuration."""
    return lambda: model(config(**settings))


TOWERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "ViT": (of(hf.ViTModel, hf.ViTConfig, **BASE), "`ViTModel`: `google/vit-*`, DINO"),
    "ViT, classes": (
        of(hf.ViTForImageClassification, hf.ViTConfig, **BASE, num_labels=5), "`ViTForImageClassification`",
    ),
    "DINOv2": (of(hf.Dinov2Model, hf.Dinov2Config, **DINO), "`Dinov2Model`: any size"),
    "DINOv2, classes": (
        of(hf.Dinov2ForImageClassification, hf.Dinov2Config, **DINO, use_swiglu_ffn=True),
        "`Dinov2ForImageClassification`; also SwiGLU (giant)",
    ),
    "DINOv2 with registers": (
        of(hf.Dinov2WithRegistersModel, hf.Dinov2WithRegistersConfig, **DINO), "`Dinov2WithRegistersModel`: any size",
    ),
    "DINOv3": (
        of(hf.DINOv3ViTModel, hf.DINOv3ViTConfig, **BASE, num_register_tokens=4),
        "`DINOv3ViTModel`: RoPE, registers, any size; also gated MLP",
    ),
    "CLIP tower": (of(hf.CLIPVisionModel, hf.CLIPVisionConfig, **BASE), "`CLIPVisionModel`, `clip.vision_model`"),
    "CLIP tower, projected": (
        of(hf.CLIPVisionModelWithProjection, hf.CLIPVisionConfig, **BASE, projection_dim=16),
        "`CLIPVisionModelWithProjection`",
    ),
    "CLIP, classes": (of(hf.CLIPForImageClassification, hf.CLIPConfig, **TWO), "`CLIPForImageClassification`"),
    "SigLIP tower": (
        of(hf.SiglipVisionModel, hf.SiglipVisionConfig, **BASE),
        "`SiglipVisionModel`: SigLIP, and SigLIP 2 at a fixed size (`siglip2-*-patch*-*`)",
    ),
    "SigLIP, classes": (of(hf.SiglipForImageClassification, hf.SiglipConfig, **TWO), "`SiglipForImageClassification`"),
    "YOLOS": (
        of(hf.YolosForObjectDetection, hf.YolosConfig, **YOLOS, use_mid_position_embeddings=False),
        "`YolosForObjectDetection`: detection tokens are kept before the patches; any size",
    ),
    "YOLOS, positions in all layers": (
        of(hf.YolosForObjectDetection, hf.YolosConfig, **YOLOS), "`use_mid_position_embeddings`: small, base",
    ),
}  # fmt: skip
"""How each is made, and what it is called."""

TWO_TOWERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "CLIP, both towers": (of(hf.CLIPModel, hf.CLIPConfig, **TWO), "`CLIPModel`: `get_image_features`, or with text"),
    "SigLIP, both towers": (of(hf.SiglipModel, hf.SiglipConfig, **TWO), "`SiglipModel`, the same"),
}

REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "SigLIP 2 with packed patches": (
        of(hf.Siglip2VisionModel, hf.Siglip2VisionConfig, **{k: v for k, v in BASE.items() if k != "image_size"},
           num_patches=36),
        "Siglip2VisionModel takes packed patches",
    ),
    "a backbone of several stages": (
        of(hf.Dinov2Backbone, hf.Dinov2Config, **DINO), "Dinov2Backbone",
    ),
    "hidden states by configuration": (
        of(hf.ViTModel, hf.ViTConfig, **BASE, output_hidden_states=True), "config.output_hidden_states",
    ),
    "a text tower": (of(hf.CLIPTextModel, hf.CLIPTextConfig, **TEXT), "CLIPTextModel"),
}  # fmt: skip


def build_tower(name: str, seed: int = 0) -> nn.Module:
    """The model, in evaluation mode, with weights large enough for every part to have a say."""
    make, _ = (TOWERS | TWO_TOWERS)[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make()
        for weight in model.parameters():
            nn.init.normal_(weight, std=0.2)
    return model.eval()
