"""A small ViViT trained on clips of verbs: views whose labels stay right, the whole run, exact resume, refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from envs.actions import ClassFolders
from envs.doom.verbs import VERBS
from envs.vivit import ViewPlan, ViViT
from envs.vivit.views import MEAN, STD
from envs.vivit.weights import load_vivit
from eventful.errors import UserError
from eventful.video.writer import VideoWriter
from train.recipe.training import Training
from train.verbs import train as command
from train.verbs.augment import RandomViews, backward_labels, mirrored_labels
from train.verbs.card import hits, score
from train.verbs.clips import LabelledTensors, small_clips, views_of
from train.verbs.train import VerbsConfig, see_motion, train

SHIFT = {"idle": 0, "turn_left": 3, "turn_right": -3}
"""Columns by which the picture moves from frame to frame: to the right when turning left."""


def texture(seed):
    return np.random.default_rng(seed).integers(0, 256, (5, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verbs")
    for split, seeds in (("train", (0, 1)), ("val", (2, 3))):
        for verb, shift in SHIFT.items():
            for seed in seeds:
                path = folder / split / verb / f"{seed}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                with VideoWriter(path, 17.5) as video:
                    for t in range(6):
                        video.write(np.roll(texture(seed), shift * t, 1))
    return folder


@pytest.fixture
def config(root, tmp_path):
    sizes = dict(size=32, frames=4, starts=1, dim=24, heads=2, depth=1, temporal_depth=1)
    run = dict(steps=4, batch=3, warmup=1, save_every=2, look_every=2)
    return VerbsConfig(root=str(root), out=str(tmp_path / "out"), **sizes, **run)


def test_mirrors_and_backwards():
    assert {VERBS[k]: VERBS[m] for k, m in enumerate(mirrored_labels(VERBS)) if m != k} == {
        "strafe_left": "strafe_right",
        "strafe_right": "strafe_left",
        "turn_left": "turn_right",
        "turn_right": "turn_left",
    }
    backward = {VERBS[k]: b if b is None else VERBS[b] for k, b in enumerate(backward_labels(VERBS))}
    assert backward["forward"] == "back" and backward["turn_left"] == "turn_right" and backward["idle"] == "idle"
    assert backward["shoot"] is None
    with pytest.raises(UserError, match="class turn_left would be turn_right in a mirror"):
        mirrored_labels(["turn_left", "idle"])


def shift_of(view_TCHW):
    """Columns by which the picture moves, the shift at which neighbouring frames agree best."""
    grey = view_TCHW.mean(1)
    inner = slice(6, -6)
    errors = {
        s: float((grey[1:].roll(-s, -1)[..., inner] - grey[:-1][..., inner]).square().mean()) for s in range(-5, 6)
    }
    return min(errors, key=errors.get)


def test_views_show_what_their_labels_say(root):
    data = ClassFolders(root)
    clips = small_clips(data.videos("train"), 40, 4)
    views = RandomViews(clips, data.classes, 32, 4)
    x_BTCHW, label_B = views.batch(60, torch.Generator().manual_seed(0))
    assert x_BTCHW.shape == (60, 4, 3, 32, 32) and len(set(label_B.tolist())) == 3
    for view, label in zip(x_BTCHW, label_B.tolist(), strict=True):
        assert np.sign(shift_of(view)) == np.sign(SHIFT[data.classes[label]])
    # Both kinds of change happen, or views of one clip would have one label.
    left = data.classes.index("turn_left")
    generator = torch.Generator().manual_seed(1)
    seen = {views.view(clips.tensors[clips.labels.index(left)], left, generator)[1] for _ in range(20)}
    assert seen == {left, data.classes.index("turn_right")}
    low, high = (0 - MEAN) / STD, (1 - MEAN) / STD
    assert x_BTCHW.min() >= low - 1e-5 and x_BTCHW.max() <= high + 1e-5


def test_a_run_leaves_a_model_and_its_card(config, capsys):
    path = train(config)
    vivit = load_vivit(path)
    assert (vivit.size, vivit.frames, vivit.heads) == (32, 4, 2) and path.stat().st_size < 10_000_000
    card = (Path(config.out) / "README.md").read_text()
    assert "Trained on 6 clips" in card and "steps=4 batch=3" in card and "| val | 6 | " in card
    assert "seed=0" in card and "| turn_left | " in card and "first frame repeated" in card
    before = load_file(path)
    train(config)
    assert "resumed at step 4" in capsys.readouterr().out
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_file(path).items())


def test_training_goes_on_where_it_stopped(config, tmp_path, monkeypatch):
    whole = load_file(train(config))
    config.out = str(tmp_path / "parts")
    save = Training._save

    def save_and_stop(run):
        save(run)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Training, "_save", save_and_stop)
        train(config)
    parts = load_file(train(config))
    assert "resumed at step 2" in (tmp_path / "parts/log.txt").read_text()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    config.lr = 1e-4
    with pytest.raises(UserError, match=r"belongs to a run with other settings \(lr\)"):
        train(config)


@pytest.mark.parametrize("pairs", [0.0, 1.0])
def test_training_lowers_the_loss(config, pairs):
    config.pairs, config.look_every = pairs, 20
    config.steps, config.batch, config.warmup, config.lr, config.smoothing = 40, 6, 5, 3e-3, 0.0
    train(config)
    first, last = (float(line.split()[3]) for line in (Path(config.out) / "log.txt").read_text().splitlines()[:2])
    assert last < first


def test_a_new_spatial_part_sees_what_changes():
    spatial = ViViT(32, 3, 4, dim=32, heads=2, depth=1, temporal_depth=1).spatial
    see_motion(spatial)
    picture_BCHW = torch.rand(1, 3, 32, 32)
    tokens_BND = spatial.patch_embed(torch.cat([picture_BCHW, picture_BCHW], 1)) - spatial.patch_embed.proj.bias
    assert tokens_BND[..., :24].abs().max() < 1e-5 and tokens_BND[..., 24:].abs().mean() > 1e-3


def test_one_frame_is_the_first_one_repeated(root):
    data = ClassFolders(root)
    clips = views_of(data.videos("val"), ViewPlan(32, 1, 4, 1, 1))

    class Motion(torch.nn.Module):
        """Knows the classes by how far the picture moves."""

        def forward(self, views):
            shift = float(np.sign(shift_of(views[0])))
            return torch.tensor([[float(np.sign(SHIFT[name]) == shift) for name in data.classes]])

    assert hits(Motion(), clips).all()
    found = score(Motion(), clips, 3)
    assert found.top1.value == 1 and found.one_frame.value == pytest.approx(1 / 3)
    assert found.by_class == [1, 1, 1] and found.clips == 6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"frames": 8}, r"has 6 frames, a view takes 8"),
        ({"size": 40}, "size, frames: views must consist of tubelets"),
        ({"dim": 25}, "dim=25 must be a multiple of heads=2"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"smoothing": 1.0}, "smoothing must be below 1, got 1.0"),
        ({"test_splits": []}, "test_splits must name a split"),
        ({"test_splits": ["test"]}, "no split 'test'; it has train, val"),
        ({"root": "nowhere"}, "nowhere should have a folder for each split"),
    ],
)
def test_what_cannot_be_is_refused(config, changes, said):
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(UserError, match=said):
        train(config)


def test_the_command_ends_with_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train.verbs", "root=a", "step=1"])
    with pytest.raises(SystemExit) as stop:
        command.main()
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("train.verbs: error: ") and error.count("\n") == 1


def test_clips_of_one_class_are_labelled(root):
    clips = small_clips(ClassFolders(root).videos("val"), 40, 6)
    assert isinstance(clips, LabelledTensors) and clips.labels == [0, 0, 1, 1, 2, 2]
    assert all(frames.shape == (6, 3, 40, 64) and frames.dtype == torch.uint8 for frames in clips.tensors)
