"""The factorised ViViT: a spatial encoder for every tubelet, a temporal one over its class tokens, a classifier.

Arnab et al., "ViViT: A Video Vision Transformer" (ICCV 2021), model 2, as TAdaConv trained it and Eventful Transformers
(ICCV 2023) evaluates it: tubelets of 2 x 16 x 16 pixels, pre-norm blocks, all norms with eps 1e-6 (`timm`'s own).

The spatial encoder is a `timm` vision transformer whose frames are pairs of video frames, stacked as six channels: a
convolution over 2 x 16 x 16 whose stride is its size is one over 16 x 16 of both frames. So `eventful.wrap` takes it,
the steps of a view are the frames of a stream, and a batch of views is a batch of streams (`envs.vivit.encode`).

Shape suffixes: V views, T frames, S steps (tubelets in time), C colours, H height, W width, D channels, K classes;
`...` any number of leading dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from einops import rearrange
from timm.layers import LayerNorm
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

TUBELET = 2
"""Frames of a tubelet."""
PATCH = 16
"""Side of a tubelet in pixels."""


class TemporalClassifier(nn.Module):
    """The temporal encoder and the classifier: what is tuned for a spatial encoder that updates fewer tokens.

    Args:
        steps: Number S of steps.
        dim: Number D of channels.
        heads: Number of attention heads.
        depth: Number of blocks.
        classes: Number K of classes.
        dropout: Share of the features that is dropped before the classifier, in training mode.
    """

    def __init__(self, steps: int, dim: int, heads: int, depth: int, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, steps + 1, dim) * 0.02)
        self.blocks = nn.Sequential(*(Block(dim, heads, qkv_bias=True, norm_layer=LayerNorm) for _ in range(depth)))
        self.norm = LayerNorm(dim)
        self.drop = nn.Dropout(dropout)
        self.classifier = nn.Linear(dim, classes)

    @property
    def steps(self) -> int:
        """Number S of steps."""
        return self.pos_embed.shape[1] - 1

    def features(self, tokens_VSD: Tensor) -> Tensor:
        """Class tokens of the steps of V views (V, S, D) to one feature of each view (V, D)."""
        class_VD = self.cls_token.expand(len(tokens_VSD), -1, -1)
        return self.norm(self.blocks(torch.cat([class_VD, tokens_VSD], 1) + self.pos_embed))[:, 0]

    def forward(self, tokens: Tensor) -> Tensor:
        """Class tokens of the steps (..., S, D) to logits (..., K)."""
        features_VD = self.features(tokens.flatten(0, -3))
        return self.classifier(self.drop(features_VD)).unflatten(0, tokens.shape[:-2])


class ViViT(nn.Module):
    """A factorised ViViT. `envs.vivit.encode` runs the spatial part, dense or eventful; `temporal` goes on from there.

    Args:
        size: Side of the views in pixels, a multiple of 16.
        classes: Number of classes.
        frames: Number of frames of a view, even.
        dim: Number of channels.
        heads: Number of attention heads.
        depth: Number of blocks of the spatial part.
        temporal_depth: Number of blocks of the temporal part.
        dropout: Share of the features that is dropped before the classifier, in training mode.

    Raises:
        ValueError: If views do not consist of whole tubelets.
    """

    def __init__(
        self,
        size: int,
        classes: int,
        frames: int = 32,
        dim: int = 768,
        heads: int = 12,
        depth: int = 12,
        temporal_depth: int = 4,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if size < PATCH or size % PATCH or frames < TUBELET or frames % TUBELET:
            raise ValueError(
                f"views must consist of tubelets of {TUBELET} frames of {PATCH}x{PATCH} pixels, "
                f"got {frames} frames of {size}x{size}"
            )
        self.size, self.frames, self.heads = size, frames, heads
        self.spatial = VisionTransformer(
            img_size=size,
            patch_size=PATCH,
            in_chans=3 * TUBELET,
            num_classes=0,
            embed_dim=dim,
            depth=depth,
            num_heads=heads,
            norm_layer=LayerNorm,
        )
        self.temporal = TemporalClassifier(frames // TUBELET, dim, heads, temporal_depth, classes, dropout)

    def forward(self, views_VTCHW: Tensor) -> Tensor:
        """Views, as `envs.vivit.views` makes them, to the logits of each (V, K), densely."""
        return self.temporal(torch.stack([self.spatial(step) for step in tubelets(views_VTCHW)], 1))


def tubelets(views_VTCHW: Tensor) -> Iterator[Tensor]:
    """The steps of views, one by one: pairs of frames as the spatial part takes them (V, 2 C, H, W).

    Raises:
        ValueError: If the number of frames is not even.
    """
    if views_VTCHW.shape[1] % TUBELET:
        raise ValueError(f"views must consist of tubelets of {TUBELET} frames, got {views_VTCHW.shape[1]} frames")
    for pair_VTCHW in views_VTCHW.split(TUBELET, 1):
        yield rearrange(pair_VTCHW, "v t c h w -> v (c t) h w")


def video_probabilities(logits_VK: Tensor) -> Tensor:
    """Class probabilities of a video from the logits of its views (..., V, K): their mean, then the softmax."""
    return logits_VK.mean(-2).softmax(-1)
