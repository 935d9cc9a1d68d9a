"""What an evaluation holds of a long clip."""

import gc
import json
import weakref

import pytest
from vitdet_tiny import CLASSES, TINY, squares

from envs.vid import ClassList, clips
from envs.vid.images import read_image
from envs.vid.write import write_official
from train import evaluate


class Counted:
    """Reads images, and counts those that are alive."""

    def __init__(self):
        self.alive, self.most, self.made = 0, 0, 0

    def __call__(self, path):
        image_HWC = read_image(path)
        self.made, self.alive = self.made + 1, self.alive + 1
        self.most = max(self.most, self.alive)
        weakref.finalize(image_HWC, self.gone)
        return image_HWC

    def gone(self):
        self.alive -= 1


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vid")
    for split, frames in (("train", 4), ("test", 80)):
        write_official(folder, split, [squares(f"{split}-{k}", k, frames) for k in range(2)], ClassList(tuple(CLASSES)))
    return folder


def test_an_evaluation_holds_a_frame_of_each_stream(root, tmp_path, monkeypatch):
    counted = Counted()
    monkeypatch.setattr(clips, "read_image", counted)
    options = {"root": str(root), "canvas": 128, "proposals": 8, "classes": CLASSES, "architecture": TINY}
    task = ["task=envs.vid.task:VidDetection", *(f"task_options.{k}={json.dumps(v)}" for k, v in options.items())]
    few = ["policies=[TopR]", "budgets=[0.5]", "bootstrap=5", "calibration_streams=1", "calibration_frames=4"]
    evaluate._main([*task, *few, "streams=2", "cache_mb=0", "plots=false", "latency=false", f"out={tmp_path / 'a'}"])
    gc.collect()
    assert counted.made >= 3 * 2 * 80 and counted.alive == 0
    assert counted.most <= 4, "two of this step, and those of the one before until they are let go"
