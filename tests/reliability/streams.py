"""What long runs are made of: a small model, a camera that never stops, a look at memory, distances."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import eventful
import policies

SIDE = 48


def a_model(policy: policies.Policy, **mode: Any) -> eventful.EventfulModel:
    """A small transformer whose attention matters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vit = VisionTransformer(img_size=SIDE, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=5)
        with torch.no_grad():
            for name, weight in vit.named_parameters():
                if weight.dim() > 1:
                    torch.nn.init.normal_(weight, std=0.3 if "qkv" in name else 0.15)
    return eventful.wrap(vit, policy, **mode)


class Camera:
    """Pictures (1, 3, SIDE, SIDE) of a textured square that wanders over noise; the lower third never changes."""

    def __init__(self, seed: int) -> None:
        self._random = torch.Generator().manual_seed(seed)
        self.ground = torch.randn(1, 3, SIDE, SIDE, generator=self._random)
        self.square = torch.randn(3, 12, 12, generator=self._random)
        self._at = [0, 0]

    def picture(self, still: bool = False) -> Tensor:
        if not still:
            steps = torch.randint(-2, 3, (2,), generator=self._random).tolist()
            bounds = (SIDE * 2 // 3 - 12, SIDE - 12)
            self._at = [min(max(a + s, 0), most) for a, s, most in zip(self._at, steps, bounds, strict=True)]
        y, x = self._at
        picture = self.ground.clone()
        picture[0, :, y : y + 12, x : x + 12] = self.square
        return picture


class Memory:
    """Resident memory of this process from the first check on."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def look(self) -> None:
        gc.collect()
        # What has been freed in pieces stays with the allocator: tensors of many sizes leave it scattered.
        ctypes.CDLL(None).malloc_trim(0)
        self.seen.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))

    def growth(self, first: int = 0) -> float:
        """Largest growth since a check."""
        return max(self.seen[first:]) / self.seen[first] - 1

    def __str__(self) -> str:
        course = [f"{k}: {self.seen[k - 1] / 2**20:.1f}" for k in (1, 2, 5, 10, 20, 50, 100) if k <= len(self.seen)]
        return f"memory {self.growth():+.2%} at most (MiB after thousands of frames: {', '.join(course)})"


def sums_error(state: eventful.StreamState) -> float:
    """How far the attention outputs that a state holds are from those of the queries, keys and values that it holds."""
    worst = 0.0
    for block in state.blocks:
        a = block.attention
        if a.out_BNHd is None or a.v_BNHd is None:
            continue
        v = a.v_BNHd.transpose(1, 2).double()
        if a.weights_BHNK is not None:
            want = a.weights_BHNK.double() @ v
        else:
            q, k = (x.transpose(1, 2).double() for x in (a.q_BNHd, a.k_BNHd) if x is not None)
            want = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        error = (a.out_BNHd.transpose(1, 2) - want).norm() / want.norm()
        worst = max(worst, float(error))
    return worst


def off(out: Tensor, dense: Tensor) -> float:
    """The largest difference, over the spread of the dense model's outputs."""
    return float((out - dense).abs().max() / dense.std())
