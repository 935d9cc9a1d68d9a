"""The compute column of the paper for a ViTDet that runs: `eventful.macs.paper_column`, of what its gates selected.

Shape suffixes: B streams, G gates, N tokens.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor

from eventful import StreamState
from eventful.families.vitdet import ViTDetAttention
from eventful.macs.paper_column import Architecture, Selected

GATES = 3
"""Gates of a block."""


def architecture_of(vit: VisionTransformerSAM, side: int) -> Architecture:
    """The sizes of a ViTDet on frames of `side` pixels."""
    # timm declares neither the patches of an embedding nor what blocks hold.
    embed: Any = vit.patch_embed
    blocks: list[Any] = list(vit.blocks)
    patch = embed.patch_size[0]
    windowed = {index: block.window_size for index, block in enumerate(blocks) if block.window_size}
    pools = [block.attn.kv_pool for block in blocks if isinstance(block.attn, ViTDetAttention)]
    return Architecture(
        (side // patch, side // patch),
        vit.embed_dim,
        blocks[0].attn.num_heads,
        len(blocks),
        window=next(iter(windowed.values()), 0),
        windowed=frozenset(windowed),
        relative=True,
        pool=max(pools, default=1),
    )


def selected(state: StreamState, architecture: Architecture) -> list[Selected]:
    """How many tokens the gates of each block updated in the last frame of the first stream."""
    updated_GN = state.updated()[0]
    counts = updated_GN.sum(1).tolist()
    blocks = []
    for i in range(0, len(counts), GATES):
        cells = _cells(updated_GN[i], architecture) if architecture.pool > 1 else None
        qkv, proj, mlp = counts[i : i + GATES]
        blocks.append(Selected(qkv, proj, mlp, cells))
    return blocks


def _cells(updated_N: Tensor, architecture: Architecture) -> int:
    """Number of pooled keys with an updated token in them."""
    updated_YX = updated_N.float().view(architecture.grid)
    return int(F.max_pool2d(updated_YX[None, None], architecture.pool, ceil_mode=True).sum())
