"""Each data set by name, with `eventful-tune`: from a tiny tree of files to a tuned model."""

import pytest
import torch
from golden_vivit import SMALL

from envs.vivit import view_steps
from envs.vivit.videos import load_video_set, plan_of
from envs.vivit.weights import load_vivit, save_vivit
from eventful.errors import UserError
from train.tuning.tune import tune
from train.tuning.tune_config import TuneConfig

TREES = {"epic": ("validation", 1), "kinetics": ("val", 2), "folder": ("train", 2)}


@pytest.fixture
def trees(epic, kinetics, folders):
    (kinetics / "names.txt").write_text("\n".join(f"class {k:03d}" for k in range(400)))
    return {"epic": epic, "kinetics": kinetics, "folder": folders}


@pytest.fixture
def config(tmp_path):
    torch.manual_seed(0)
    save_vivit(SMALL.on(torch.device("cpu")), tmp_path / "vivit.safetensors")
    return TuneConfig(
        weights=str(tmp_path / "vivit.safetensors"),
        out=str(tmp_path / "out"),
        cache=str(tmp_path / "cache"),
        heuristic="top-r:4",
        lr=1e-3,
        epochs=1,
        batch=2,
        starts=2,
        crops=1,
    )


@pytest.mark.parametrize("name", TREES)
def test_a_set_is_tuned_on_by_its_name(name, trees, config, monkeypatch):
    split, stride = TREES[name]
    config.data, config.data_options = name, {"root": str(trees[name])}
    config.train_split = config.test_split = split
    if name == "kinetics":
        # The small model tells 97 classes, of which the tree has one.
        config.max_videos = 1
    before = load_vivit(config.weights)
    after = load_vivit(tune(config))
    assert not torch.equal(before.temporal.classifier.weight, after.temporal.classifier.weight)
    data = load_video_set(name, root=str(trees[name]))
    assert plan_of(data, 64, 8).stride == stride and plan_of(data, 64, 8, stride=3).stride == 3


def test_the_steps_of_a_view_are_those_of_its_clip(epic, seen_numbers):
    """A clip at half the video's rate: a view's frames are every second one, from where the clip starts."""
    data = load_video_set("epic", root=str(epic))
    clip = data.videos("validation")[1]
    plan = plan_of(data, 24, 8, starts=1, crops=1)
    steps = torch.cat(list(view_steps(clip.frames(), plan))).unflatten(1, (3, 2)).transpose(1, 2).flatten(0, 1)
    frames = clip.frames()[torch.arange(7, 15)]
    assert seen_numbers(frames).diff().tolist() == [2] * 7
    expected = (frames[..., 4:28].float() / 255 - 0.45) / 0.225
    torch.testing.assert_close(steps, expected)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("epic", {}, "data epic needs root"),
        ("epics", {}, "no 'epics'; did you mean epic"),
        ("kinetics", {"roots": "a"}, "no option 'roots'; did you mean root"),
        ("folder", {"root": "nowhere"}, "should have a folder for each split"),
        ("epic", {"root": "nowhere", "rate": "fast"}, "option rate cannot be 'fast'"),
    ],
)
def test_what_is_wrong_with_a_set_is_said(name, options, said):
    with pytest.raises(UserError, match=said):
        load_video_set(name, **options)


def test_a_table_that_is_missing_is_named(config, tmp_path):
    config.data, config.data_options = "epic", {"root": str(tmp_path)}
    with pytest.raises(UserError, match=r"EPIC_100_validation\.csv is missing"):
        tune(config)
