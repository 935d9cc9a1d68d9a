"""A task small enough for tests: a ViT of 17 tokens, clips of a square that wanders over noise, its place as label."""

import torch
from timm.models.vision_transformer import VisionTransformer

from envs.task import Clip, freeze

SIDE, PATCH = 32, 8


class Accuracy:
    def __init__(self):
        self.hits = {}

    def update(self, clip, outputs, targets):
        found = zip(outputs.argmax(-1).tolist(), targets, strict=True)
        self.hits.setdefault(clip, []).extend(float(k == int(target["place"])) for k, target in found)

    def compute(self, clips=None):
        hits = [hit for clip in (clips or self.hits) for hit in self.hits[clip]]
        return sum(hits) / len(hits)


class TinyTask:
    name, metric_name, class_names = "tiny", "accuracy", ("left", "right")

    def __init__(self, lengths=(6, 8, 5), has_labels=True, seed=0):
        self.has_labels, self.lengths = has_labels, lengths
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            vit = VisionTransformer(
                img_size=SIDE, patch_size=PATCH, embed_dim=32, depth=2, num_heads=2, num_classes=2, class_token=True
            )
        self.model = freeze(vit)

    def clips(self, split):
        if split not in ("train", "test"):
            raise ValueError(f"no split {split!r}; there are train and test")
        return [self._clip(split, k, length) for k, length in enumerate(self.lengths)]

    def _clip(self, split, k, length):
        random = torch.Generator().manual_seed(k + 100 * (split == "test"))
        frames = torch.randint(60, 120, (1, SIDE, SIDE, 3), generator=random, dtype=torch.uint8).repeat(length, 1, 1, 1)
        targets = []
        for t in range(length):
            x = (5 * t + 3 * k) % (SIDE - PATCH)
            frames[t, 8:20, x : x + PATCH] = 230
            targets.append({"place": torch.tensor(int(x >= SIDE // 2))})
        return Clip(f"{split}-{k}", frames, targets if self.has_labels else ())

    def preprocess(self, frames_BHWC):
        return frames_BHWC.permute(0, 3, 1, 2).float() / 255 - 0.5

    def loss(self, outputs, targets):
        truth = torch.stack([target["place"] for target in targets])
        return torch.nn.functional.cross_entropy(outputs, truth, reduction="none")

    def metric(self):
        return Accuracy() if self.has_labels else None

    def predictions(self, outputs, frame_size):
        return [[] for _ in outputs]
