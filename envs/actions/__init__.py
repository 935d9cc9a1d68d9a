"""Clips with classes: EPIC-KITCHENS-100 and Kinetics-400 from the files that they come as, folders of your own."""

from envs.actions.clip import ActionClip, ClipFrames
from envs.actions.epic import EpicKitchens
from envs.actions.folders import ClassFolders
from envs.actions.kinetics import Kinetics400

__all__ = ["ActionClip", "ClassFolders", "ClipFrames", "EpicKitchens", "Kinetics400"]
