"""A tiny set of videos in ImageNet VID's layout."""

import pytest
from vitdet_tiny import CLASSES, squares, tiny_detector

from envs.vid import ClassList
from envs.vid.write import write_official


@pytest.fixture
def detector():
    return tiny_detector()


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vid")
    for split, seeds in (("train", (0, 1)), ("val", (2, 3))):
        clips = [squares(f"{split}-{seed}", seed) for seed in seeds]
        write_official(folder, split, clips, ClassList(tuple(CLASSES)))
    return folder
