"""A tiny ViTDet, and tiny clips for it: a bright square, or a dark one, that moves over noise."""

import torch

from envs.task import Clip
from envs.vitdet.detector import vitdet_vid

CLASSES = ["bright", "dark"]
TINY = {"embed_dim": 24, "depth": 2, "heads": 2, "window": 2, "global_blocks": [1], "channels": 16, "hidden": 32}


def squares(name, seed, frames=3):
    random = torch.Generator().manual_seed(seed)
    frames_THWC = torch.randint(100, 150, (frames, 80, 128, 3), generator=random, dtype=torch.uint8)
    targets = []
    for t in range(frames):
        left = 20 + 8 * t
        frames_THWC[t, 20:60, left : left + 40] = 250 if seed % 2 == 0 else 0
        box = torch.tensor([[left, 20.0, left + 40, 60]])
        targets.append({"boxes": box, "labels": torch.tensor([seed % 2])})
    return Clip(name, frames_THWC, targets)


def tiny_detector(side=128, **changes):
    torch.manual_seed(0)
    return vitdet_vid(side, len(CLASSES), 20, architecture=TINY | changes)
