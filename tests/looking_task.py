"""A task without labels: the left of the picture flickers, the consumer looks at the right edge, and says so."""

import dataclasses

import torch
from timm.models.vision_transformer import VisionTransformer
from tiny_task import TinyTask

from envs.output_distance import dense_distance
from envs.task import freeze

PREFIX, TOKENS = 1, 65
RIGHT = (torch.arange(64) % 8 >= 6).float()


class LookingTask(TinyTask):
    name, metric_name, class_names = "looking", "fidelity", ()

    def __init__(self, lengths=(12, 12, 12, 12)):
        super().__init__(lengths, has_labels=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            vit = VisionTransformer(
                img_size=32, patch_size=4, embed_dim=32, depth=2, num_heads=2, num_classes=4, global_pool=""
            )
            torch.nn.init.normal_(vit.head.weight)
        self.model = freeze(vit)

    def clips(self, split):
        clips = enumerate(super().clips("test" if split == "val" else split))
        return [dataclasses.replace(clip, frames_THWC=_flickering(clip.frames_THWC, k)) for k, clip in clips]

    @staticmethod
    def output_distance(outputs, dense_outputs):
        return RIGHT * dense_distance(outputs, dense_outputs)[:, PREFIX:]

    @staticmethod
    def saliency(outputs):
        return RIGHT.expand(len(outputs), -1)


def _flickering(frames_THWC, seed):
    random = torch.Generator().manual_seed(seed)

    def noise(part_THWC, limit):
        return torch.randint(0, limit, part_THWC.shape, generator=random, dtype=torch.uint8)

    frames_THWC = frames_THWC.clone()
    frames_THWC[:, :, :16] = noise(frames_THWC[:, :, :16], 255)
    frames_THWC[:, :, 24:] += noise(frames_THWC[:, :, 24:], 25)
    return frames_THWC
