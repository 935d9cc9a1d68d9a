"""The Doom detector's parts: box coding, loss, average precision, weights, the task's interface."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from envs.doom.average_precision import MeanAveragePrecision50, frame_ap
from envs.doom.boxes import TOKENS, decode, detections, encode, flip, split_outputs, token_centres
from envs.doom.detector import WEIGHTS, build_detector, load_detector, save_detector
from envs.doom.labels import CLASS_NAMES
from envs.doom.loss import assign, detection_loss
from envs.doom.task import DoomDetection, normalise, preprocess
from envs.task import Clip, VideoTask
from train.detector import train as train_detector
from train.detector.augment import augment
from train.detector.card import write_card
from train.detector.crops import cut_windows, window_outputs
from train.detector.frames import LabelledFrames
from train.detector.score import score

CLASSES = len(CLASS_NAMES)


def random_boxes(rng, count):
    low = rng.uniform(0, (260, 180), (count, 2))
    return torch.tensor(np.concatenate([low, low + rng.uniform(12, 60, (count, 2))], 1), dtype=torch.float32)


def random_frame(rng, objects=6, noise=4.0):
    """Objects of a frame and detections that find some of them, miss some and make some up."""
    true = random_boxes(rng, rng.integers(0, objects + 1))
    labels = torch.tensor(rng.integers(0, 4, len(true)))
    near = true + torch.tensor(rng.normal(0, noise, (len(true), 4)), dtype=torch.float32)
    boxes = torch.cat((near, near[: len(near) // 2] + 1, random_boxes(rng, 3)))
    guess = torch.cat((labels, labels[: len(near) // 2], torch.tensor(rng.integers(0, 5, 3))))
    found = {"boxes": boxes, "labels": guess, "scores": torch.tensor(rng.random(len(boxes)))}
    return found, {"boxes": true, "labels": labels}


def outputs_for(targets):
    """Detector outputs that state the targets, nearest token first come."""
    outputs = torch.zeros(len(targets), TOKENS, CLASSES + 4)
    outputs[..., :CLASSES] = -9
    for b, target in enumerate(targets):
        for box, label in zip(target["boxes"], target["labels"], strict=True):
            n = int((token_centres() - (box[:2] + box[2:]) / 2).square().sum(1).argmin())
            outputs[b, n, -4:] = encode(box.expand(TOKENS, 4))[n]
            outputs[b, n, label] = 9
    return outputs


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return build_detector(dim=48, depth=1, heads=3).eval()


def test_decode_inverts_encode():
    boxes = random_boxes(np.random.default_rng(0), TOKENS)
    torch.testing.assert_close(decode(encode(boxes)), boxes, atol=1e-3, rtol=1e-4)


def test_detections_return_what_the_outputs_state():
    target = {"boxes": torch.tensor([[10.0, 20, 60, 90], [200, 100, 240, 120]]), "labels": torch.tensor([1, 4])}
    (found,) = detections(outputs_for([target]))
    order = found["labels"].argsort()
    torch.testing.assert_close(found["boxes"][order], target["boxes"], atol=1e-2, rtol=0)
    assert found["labels"][order].tolist() == [1, 4]


def test_of_two_boxes_on_one_object_the_better_stays():
    outputs = outputs_for([{"boxes": torch.tensor([[100.0, 100, 140, 140]]), "labels": torch.tensor([2])}])
    n = int(outputs[0, :, 2].argmax())
    outputs[0, n + 1, 2] = 3
    outputs[0, n + 1, -4:] = encode(torch.tensor([101.0, 100, 141, 140]).expand(TOKENS, 4))[n + 1]
    (found,) = detections(outputs)
    assert len(found["scores"]) == 1 and found["scores"][0] > 0.99


@pytest.mark.parametrize("shape", [(1, 299, 14), (300, 14), (1, 300, 4)])
def test_outputs_of_a_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match="expected"):
        split_outputs(torch.zeros(shape))


def test_flip_mirrors_frame_and_boxes_and_twice_is_nothing():
    frames = torch.zeros(1, 240, 320, 3, dtype=torch.uint8)
    frames[0, 50:70, 30:60] = 255
    target = {"boxes": torch.tensor([[30.0, 50, 60, 70]]), "labels": torch.tensor([3])}
    mirrored, (view,) = flip(frames, [target])
    x1, y1, x2, y2 = view["boxes"][0].int().tolist()
    assert (mirrored[0, y1:y2, x1:x2] == 255).all() and mirrored.sum() == frames.sum()
    back, (again,) = flip(mirrored, [view])
    assert torch.equal(back, frames) and torch.equal(again["boxes"], target["boxes"])


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


def test_every_object_owns_a_token():
    rng = np.random.default_rng(1)
    boxes = torch.stack([random_boxes(rng, 3) for _ in range(20)])
    owners = assign(boxes, torch.tensor([True, True, False]).expand(20, 3))
    for b in range(20):
        centre = (boxes[b, :, :2] + boxes[b, :, 2:]) / 2
        nearest = torch.cdist(centre, token_centres()).argmin(1)
        assert 2 not in owners[b]
        if nearest[0] != nearest[1]:
            assert {0, 1} <= set(owners[b].tolist())


def test_loss_is_one_value_a_stream_and_streams_are_independent(detector):
    frames = torch.randint(0, 255, (3, 240, 320, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    rng = np.random.default_rng(2)
    targets = [{"boxes": random_boxes(rng, k), "labels": torch.zeros(k, dtype=torch.long)} for k in (0, 1, 5)]
    outputs = detector(preprocess(frames))
    together = detection_loss(outputs, targets)
    alone = torch.cat([detection_loss(outputs[k : k + 1], targets[k : k + 1]) for k in range(3)])
    assert together.shape == (3,) and together.requires_grad
    torch.testing.assert_close(together, alone)
    with pytest.raises(ValueError, match="as many targets"):
        detection_loss(outputs, targets[:2])


def test_loss_falls_when_one_frame_is_learned():
    torch.manual_seed(0)
    model = build_detector(dim=48, depth=2, heads=3)
    frame = torch.randint(0, 255, (1, 240, 320, 3), dtype=torch.uint8)
    target = {"boxes": torch.tensor([[20.0, 30, 80, 120], [200, 100, 240, 150]]), "labels": torch.tensor([0, 5])}
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    losses = []
    for _ in range(60):
        loss = detection_loss(model(preprocess(frame)), [target]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_equals_torchmetrics(seed):
    detection = pytest.importorskip("torchmetrics.detection")
    rng = np.random.default_rng(seed)
    ours = MeanAveragePrecision50(CLASSES)
    frames = [random_frame(rng) for _ in range(30)]
    names = [f"clip{k % 5}" for k in range(30)]
    for name, (found, target) in zip(names, frames, strict=True):
        ours.add(name, found, target)
    for chosen in (None, ["clip1", "clip3", "clip1"]):
        theirs = detection.MeanAveragePrecision(iou_thresholds=[0.5])
        for name in names if chosen is None else chosen:
            picked = range(30) if chosen is None else [k for k in range(30) if names[k] == name]
            for k in picked:
                theirs.update([frames[k][0]], [frames[k][1]])
            if chosen is None:
                break
        assert ours.compute(chosen) == pytest.approx(float(theirs.compute()["map_50"]), abs=1e-6)


def test_perfect_outputs_score_one_and_an_unknown_clip_is_refused():
    rng = np.random.default_rng(0)
    targets = [{"boxes": random_boxes(rng, 1), "labels": torch.tensor([k])} for k in range(3)]
    metric = DoomDetection(torch.nn.Identity()).metric()
    metric.update("a", outputs_for(targets), targets)
    assert metric.compute() == pytest.approx(1.0) and metric.compute(["a", "a"]) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="'b'"):
        metric.compute(["b"])
    assert np.isnan(MeanAveragePrecision50(3).compute())


def test_frame_ap_scores_single_frames():
    target = {"boxes": torch.tensor([[10.0, 20, 60, 90]]), "labels": torch.tensor([1])}
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    outputs = outputs_for([target, empty, target, empty])
    scores = frame_ap(outputs, [target, target, empty, empty])
    torch.testing.assert_close(scores, torch.tensor([1.0, 0, 0, 1]), atol=1e-3, rtol=0)


def test_the_task_follows_the_protocol(detector):
    task = DoomDetection(detector)
    assert isinstance(task, VideoTask)
    assert not any(p.requires_grad for p in task.model.parameters())
    frames = torch.zeros(2, 120, 200, 3, dtype=torch.uint8)
    outputs = task.model(task.preprocess(frames))
    assert outputs.shape == (2, TOKENS, CLASSES + 4)
    assert task.model.forward_features(task.preprocess(frames)).shape == (2, TOKENS, 48)


def test_predictions_are_scaled_to_the_frame(detector):
    target = {"boxes": torch.tensor([[10.0, 20, 60, 90]]), "labels": torch.tensor([1])}
    ((row,),) = DoomDetection(detector).predictions(outputs_for([target]), (480, 960))
    assert row["label"] == CLASS_NAMES[1] and row["score"] > 0.99
    assert row["box"] == pytest.approx([30, 40, 180, 180], abs=0.1)


@pytest.mark.parametrize("frames", [torch.zeros(1, 3, 240, 320), torch.zeros(240, 320, 3, dtype=torch.uint8)])
def test_frames_of_a_wrong_kind_are_refused(frames):
    with pytest.raises(ValueError, match="uint8 of shape"):
        preprocess(frames)


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
        (["lrr=1"], "unknown option 'lrr=1'"),
        (["steps=many"], "steps must be int"),
        (["install=1"], "install must be true or false"),
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
    options = train_detector.parse(["steps=1000", "warmup=100", "decay=0.5"])
    rates = [train_detector.rate(step, options) for step in range(1001)]
    assert rates[0] == pytest.approx(0.01) and rates[99] == rates[500] == 1.0
    assert rates[750] == pytest.approx(0.5) and rates[1000] == 0.0


def test_training_resumes_where_it_stopped(tmp_path, monkeypatch):
    target = {"boxes": torch.tensor([[30.0, 40, 90, 120]]), "labels": torch.tensor([1])}
    frames = torch.randint(0, 255, (4, 240, 320, 3), dtype=torch.uint8)
    monkeypatch.setattr(train_detector, "load_split", lambda *_: [Clip("a", frames, [target] * 4)])
    monkeypatch.setattr(train_detector, "build_detector", lambda: build_detector(dim=48, depth=1, heads=3))
    words = ["batch=2", "precision=fp32", "windows=0.5", "save_every=2"]
    train_detector.main([f"out={tmp_path / 'whole'}", "steps=4", *words])
    save = train_detector._save

    def save_and_stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_detector, "_save", save_and_stop)
        train_detector.main([f"out={tmp_path / 'parts'}", "steps=4", *words])
    train_detector.main([f"out={tmp_path / 'parts'}", "steps=4", *words])
    whole, parts = (load_file(tmp_path / name / "detector.safetensors") for name in ("whole", "parts"))
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


def test_the_shipped_weights_load_and_are_small():
    assert WEIGHTS.stat().st_size <= 10e6
    model = load_detector()
    assert not model.training and next(model.parameters()).dtype == torch.float32
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_missing_and_damaged_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no detector weights at"):
        load_detector(tmp_path / "none.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(WEIGHTS.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        load_detector(broken)
    save_detector(build_detector(dim=48, depth=1, heads=3), broken)
    with pytest.raises(ValueError, match="another model"):
        load_detector(broken)
