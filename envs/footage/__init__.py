"""Footage without labels: decoded videos, cut into the clips of each split, as input of any timm model."""

from envs.footage.clips import FootageClips
from envs.footage.decoded import Alteration, videos_in
from envs.footage.model_input import ModelInput
from envs.footage.ranges import SplitRanges
from envs.footage.task import FootageTask

__all__ = ["Alteration", "FootageClips", "FootageTask", "ModelInput", "SplitRanges", "videos_in"]
