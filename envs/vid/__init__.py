"""Videos with boxes on every frame: ImageNet VID in its official and in the paper's layout, and sets of your own."""

from envs.vid.classes import VID_CLASSES, ClassList
from envs.vid.coco_video import read_coco_video
from envs.vid.official import read_official
from envs.vid.published import read_published
from envs.vid.sequences import VidFrame, VidSequence, VidSplit

__all__ = [
    "VID_CLASSES",
    "ClassList",
    "VidFrame",
    "VidSequence",
    "VidSplit",
    "read_coco_video",
    "read_official",
    "read_published",
]
