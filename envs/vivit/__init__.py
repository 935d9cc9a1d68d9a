"""Action recognition by the factorised ViViT: the model, its views of a video, its cost by the paper's accounting."""

from __future__ import annotations

from envs.vivit.encode import Encoded, encode
from envs.vivit.model import TemporalClassifier, ViViT, tubelets, video_probabilities
from envs.vivit.views import ViewPlan, view_steps

__all__ = [
    "Encoded",
    "TemporalClassifier",
    "ViViT",
    "ViewPlan",
    "encode",
    "tubelets",
    "video_probabilities",
    "view_steps",
]
