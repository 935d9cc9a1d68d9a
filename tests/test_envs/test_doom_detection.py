"""The Doom detector's parts: box coding, loss, average precision, weights, the task's interface."""

import numpy as np
import pytest
import torch
from doom_detector import CLASSES, outputs_for, small_detector

from envs.detection import MeanAveragePrecision50
from envs.doom.boxes import TOKENS, decode, detections, encode, split_outputs, token_centres
from envs.doom.detector import WEIGHTS, build_detector, load_detector, save_detector
from envs.doom.labels import CLASS_NAMES
from envs.doom.loss import assign, detection_loss
from envs.doom.task import DoomDetection, preprocess
from envs.task import VideoTask


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


@pytest.fixture(scope="module")
def detector():
    return small_detector()


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
    scores = DoomDetection(torch.nn.Identity()).frame_metric(outputs, [target, target, empty, empty])
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
