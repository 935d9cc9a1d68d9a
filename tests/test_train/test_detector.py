"""Training of the Doom detector: augmentation, crops, frames, scores, the card, exact resume."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from doom_detector import CLASSES, outputs_for, small_detector
from safetensors.torch import load_file

from envs.doom.boxes import TOKENS, token_centres
from envs.doom.detector import build_detector
from envs.doom.task import normalise
from envs.task import Clip
from train.detector import train as train_detector
from train.detector.augment import augment
from train.detector.card import write_card
from train.detector.crops import cut_windows, window_outputs
from train.detector.frames import LabelledFrames
from train.detector.score import score


@pytest.fixture(scope="module")
def detector():
    return small_detector()


def test_augmented_boxes_stay_on_their_objects():
    frames = torch.zeros(16, 240, 320, 3, dtype=torch.uint8)
    frames[:, 90:150, 130:190] = 255
    target = {"boxes": torch.tensor([[130.0, 90, 190, 150]]), "labels": torch.tensor([3])}
    views, labels = augment(frames, [target] * 16, torch.Generator().manual_seed(0))
    assert views.shape == frames.shape and views.dtype == torch.uint8
    for view, label in zip(views, labels, strict=True):
        bright = (view.amax(-1) > 100).nonzero()
        low, high = bright.amin(0).flip(0), bright.amax(0).flip(0) + 1
        for box in label["boxes"]:
            torch.testing.assert_close(box, torch.cat((low, high)).float(), atol=2.0, rtol=0)


def test_a_window_gives_the_outputs_of_its_place(detector):
    frames = torch.randint(0, 255, (4, 240, 320, 3), dtype=torch.uint8)
    target = {"boxes": torch.tensor([[150.0, 100, 190, 160], [2, 2, 20, 20]]), "labels": torch.tensor([2, 6])}
    pixels, labels, tokens = cut_windows(frames, [target] * 4, torch.Generator().manual_seed(3))
    assert pixels.shape == (4, 160, 160, 3) and tokens.shape == (4, 100)
    outputs = window_outputs(detector, normalise(pixels), tokens)
    assert outputs.shape == (4, TOKENS, CLASSES + 4)
    outside = torch.ones(4, TOKENS, dtype=torch.bool).scatter(1, tokens, False)
    assert (outputs[outside][:, :CLASSES] == -20).all() and (outputs[~outside] != 0).all()
    for k in range(4):
        corner = token_centres()[tokens[k, 0]].int() - 8
        assert torch.equal(pixels[k, 0, 0], frames[k, corner[1], corner[0]])
        for box in labels[k]["boxes"]:
            assert (box[:2] >= corner).all() and (box[2:] <= corner + 160).all()


def test_rare_classes_are_drawn_more_often():
    rare, common = ({"boxes": torch.tensor([[9.0, 9, 60, 60]]), "labels": torch.tensor([k])} for k in (3, 1))
    pixels = torch.zeros(20, 240, 320, 3, dtype=torch.uint8)
    frames = LabelledFrames([Clip("a", pixels, [rare] + [common] * 19)])
    assert frames.weights[0] > 2 * frames.weights[1]
    images, targets = frames.batch(4, torch.Generator().manual_seed(0))
    assert images.shape == (4, 240, 320, 3) and len(targets) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lrr=1"], "unknown key 'lrr'"),
        (["steps=many"], "steps must be int"),
        (["lr=0"], "lr must be above 0, got 0"),
        (["seed=-1"], "seed must be at least 0"),
        (["precision=fp8"], "precision must be"),
        (["batch=5"], "multiple of workers"),
    ],
)
def test_wrong_training_options_end_with_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        train_detector.main(words)
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and message in printed and printed.count("\n") == 1


def test_the_learning_rate_rises_stays_and_falls():
    options = train_detector.DetectorConfig(steps=1000, warmup=100, decay=0.5)
    rates = [train_detector.rate(step, options) for step in range(1001)]
    assert rates[0] == pytest.approx(0.01) and rates[99] == rates[500] == 1.0
    assert rates[750] == pytest.approx(0.5) and rates[1000] == 0.0


def test_training_resumes_where_it_stopped(tmp_path, monkeypatch):
    target = {"boxes": torch.tensor([[30.0, 40, 90, 120]]), "labels": torch.tensor([1])}
    frames = torch.randint(0, 255, (4, 240, 320, 3), dtype=torch.uint8)
    monkeypatch.setattr(train_detector, "load_split", lambda *_: [Clip("a", frames, [target] * 4)])
    monkeypatch.setattr(train_detector, "build_detector", lambda: build_detector(dim=48, depth=1, heads=3))
    options = train_detector.DetectorConfig(batch=2, precision="fp32", windows=0.5, save_every=2, steps=4)
    whole, parts = (replace(options, out=str(tmp_path / name)) for name in ("whole", "parts"))
    train_detector.train(whole)
    save = train_detector._save

    def save_and_stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_detector, "_save", save_and_stop)
        train_detector.train(parts)
    train_detector.train(parts)
    whole, parts = (load_file(Path(run.out) / "detector.safetensors") for run in (whole, parts))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert "resumed at step 2" in (tmp_path / "parts" / "log.txt").read_text()


def test_the_card_gets_the_figures_and_keeps_its_text(tmp_path):
    card = tmp_path / "README.md"
    card.write_text("before\n<!-- figures -->\nold\n<!-- /figures -->\nafter\n")
    scores = {"test": {"mAP50": 0.6, "later": 0.61, "stale": 0.3, "imp": 0.7}}
    write_card(card, {"steps": 7}, scores)
    text = card.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "Options: `steps=7`" in text
    assert "| test | 0.600 | 0.610 | 0.300 |" in text and "| imp | 0.700 |" in text
    card.write_text("nothing")
    with pytest.raises(ValueError, match="no lines <!-- figures -->"):
        write_card(card, {"steps": 7}, scores)


def test_stale_predictions_score_below_fresh_ones_when_things_move():
    boxes = [torch.tensor([[4.0 * t, 100, 4.0 * t + 40, 140]]) for t in range(40)]
    targets = [{"boxes": box, "labels": torch.tensor([1])} for box in boxes]
    stated = outputs_for(targets)

    class Stub(torch.nn.Module):
        def forward(self, x):
            return stated[x[:, 0, 0, 0].mul(0.2).add(0.25).mul(255).round().long()]

    frames = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1).expand(40, 240, 320, 3)
    result = score(Stub(), [Clip("a", frames, targets, fps=17.5)])
    assert result["mAP50"] == result["later"] == pytest.approx(1.0) and result["stale"] < 0.01
