"""Single frames drawn from many clips for training the detector, rare classes favoured.

Shape suffixes: B frames, H height, W width, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from envs.doom.labels import CLASS_NAMES
from envs.task import Clip, Target
from train.detector.augment import augment
from train.recipe.views import rarity_weights


class LabelledFrames:
    """Single frames of many clips, drawn at random with rare classes favoured."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self.clips = clips
        self.places = [(c, t) for c, clip in enumerate(clips) for t in range(len(clip))]
        self.weights = rarity_weights([self.target(place)["labels"] for place in self.places], len(CLASS_NAMES))

    def target(self, place: tuple[int, int]) -> Target:
        """Labels of a frame."""
        return self.clips[place[0]].targets[place[1]]

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, list[Target]]:
        """Augmented frames (B, H, W, 3) and their labels."""
        chosen = torch.multinomial(self.weights, size, generator=generator).tolist()
        places = [self.places[k] for k in chosen]
        frames_BHWC = torch.stack([self.clips[c].frames_THWC[t] for c, t in places])
        return augment(frames_BHWC, [self.target(place) for place in places], generator)
