"""The command: model, card, resumption, the task that reads what it wrote, refusals."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from vitdet_tiny import CLASSES, TINY

from envs.vid.task import VidDetection
from envs.vitdet.weights import facts_of
from eventful.errors import UserError
from train.recipe.training import Training
from train.vitdet import train as command
from train.vitdet.start import PlainStart
from train.vitdet.train import VitdetConfig, train


@pytest.fixture
def config(root, tmp_path):
    sizes = dict(classes=list(CLASSES), canvas=64, architecture=dict(TINY), proposals=8, anchors=16, boxes=8)
    run = dict(steps=4, batch=2, warmup=1, save_every=2, look_every=2, backbone_rate=0.5)
    return VitdetConfig(root=str(root), out=str(tmp_path / "out"), **sizes, **run)


def test_a_run_leaves_a_model_and_its_card(config, root, capsys):
    path = train(config)
    card = (Path(config.out) / "README.md").read_text()
    assert "on 6 frames of 2 sequences" in card and "steps: 4" in card and "embed_dim: 24" in card
    assert "| val | 6 | 0." in card and "| bright | 0." in card
    log = (Path(config.out) / "log.txt").read_text()
    assert log.startswith("step 2 loss ") and "objectness 0." in log and "val mAP50 " in log
    # The file says what it is of: nothing else need be given.
    task = VidDetection(root=root, weights=path, splits={"test": "val"})
    assert list(task.class_names) == CLASSES and facts_of(path).canvas == 64
    frames = task.clips("test")[0].frames_THWC[0][None]
    assert task.preprocess(frames).shape == (1, 3, 64, 64)
    assert task.model(task.preprocess(frames)).shape == (1, 100 + 16, 6)
    before = load_file(path)
    train(config)
    assert "resumed at step 4" in capsys.readouterr().out
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_file(path).items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_goes_on_where_it_stopped(config, tmp_path, monkeypatch, precision):
    config.precision = precision
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
    config.anchors = 12
    with pytest.raises(UserError, match=r"belongs to a run with other settings \(anchors\)"):
        train(config)


def test_training_starts_from_a_detector(config, tmp_path):
    config.weights = str(train(config))
    config.out, config.lr, config.steps = str(tmp_path / "tuned"), 1e-12, 1
    before, after = load_file(config.weights), load_file(train(config))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_files_without_facts_are_published_detectors(tmp_path):
    assert facts_of(None).canvas == 672 and facts_of("vid.pth").classes is None
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert facts_of(tmp_path / "a.safetensors").proposals == 300
    save_file({"a": torch.zeros(1)}, tmp_path / "b.safetensors", {"detector": '{"side": 3}'})
    with pytest.raises(UserError, match=r"b\.safetensors cannot be read: .*side"):
        facts_of(tmp_path / "b.safetensors")
    with pytest.raises(FileNotFoundError, match=r"c\.safetensors does not exist"):
        facts_of(tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"boxes": 0}, "boxes must be at least 1, got 0"),
        ({"scales": [2.0, 1.0]}, "scales must be two sizes"),
        ({"test_splits": []}, "test_splits must name a split"),
        ({"test_splits": ["test"]}, r"test\.txt is missing"),
        ({"root": "nowhere"}, r"train\.txt is missing"),
        ({"layout": "none"}, "layout must be one of official, published, coco"),
        ({"classes": ["bright"]}, "there is no class 'dark'"),
        ({"architecture": {"width": 3}}, "architecture has no option 'width'"),
        ({"architecture": TINY | {"hidden": 0}}, "channels, hidden and anchor must be finite and at least 1"),
        ({"architecture": TINY | {"anchor": 0.5}}, "channels, hidden and anchor must be finite and at least 1"),
        ({"architecture": TINY | {"stem": "deep"}}, "option stem cannot be 'deep'"),
        ({"weights": "a.safetensors", "backbone": PlainStart("b.safetensors")}, "weights and backbone.weights"),
    ],
)
def test_what_cannot_be_is_refused(config, changes, said):
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(UserError, match=said):
        train(config)


def test_the_command_ends_with_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train.vitdet", "root=a", "step=1"])
    with pytest.raises(SystemExit) as stop:
        command.main()
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("train.vitdet: error: ") and error.count("\n") == 1
