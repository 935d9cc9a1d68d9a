"""The task on videos with boxes: what it says of tokens, and the commands on a small set in ImageNet VID's layout."""

import json
from functools import cache

import pytest
import torch
from PIL import Image

import eventful.infer
from envs.detection import COCO
from envs.task import Clip, VideoTask
from envs.vid import ClassList
from envs.vid.clips import ImageFrames
from envs.vid.task import VidDetection
from envs.vid.write import write_official
from envs.vitdet.detector import vitdet_vid
from envs.vitdet.roi_heads import LIMIT
from envs.vitdet.token_rows import _candidates, class_map
from eventful.errors import UserError, VideoError
from train import evaluate, policy

TINY = {"embed_dim": 24, "depth": 2, "heads": 2, "window": 2, "global_blocks": [1]}
CLASSES = ["dog", "zebra"]


@cache
def detector():
    """Made once: most of its many weights are in the head, which comes in one size."""
    torch.manual_seed(0)
    return vitdet_vid(64, len(CLASSES), 8, architecture=TINY)


def tiny(**options):
    if not options.keys() & {"architecture", "canvas", "proposals"}:
        options = {"model": detector(), "classes": CLASSES, "canvas": 64} | options
    return VidDetection(**{"canvas": 64, "architecture": TINY, "proposals": 8, "classes": CLASSES} | options)


@pytest.fixture(scope="module")
def task():
    return tiny()


@pytest.fixture(scope="module")
def outputs(task):
    frames = torch.randint(0, 256, (2, 48, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return task.model(task.preprocess(frames))


def target(*boxes, size=(48, 64)):
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.zeros(len(boxes), dtype=torch.int64),
        "size": torch.tensor(size),
    }


def test_it_is_a_task(task):
    assert isinstance(task, VideoTask)
    assert all(hasattr(task, part) for part in ("output_distance", "saliency", "token_loss", "frame_metric"))


def test_each_token_is_told_of_the_anchors_that_are_placed_in_it():
    # 3 x 5 tokens of 16 pixels; p5 has one row and two columns, p6 one of each.
    sizes = [(12, 20), (6, 10), (3, 5), (1, 2), (1, 1)]
    found = _candidates(sizes, (3, 5))
    assert found.shape == (15, 3 * (16 + 4 + 1 + 1 + 1))
    counts = torch.bincount(found.flatten(), minlength=3 * sum(y * x for y, x in sizes))
    fine = 3 * (240 + 60 + 15)
    assert (counts[:fine] == 1).all(), "each anchor of the fine levels belongs to one token"
    assert counts[fine:].tolist() == [6] * 3 + [9] * 3 + [15] * 3, "the last row and column take the place before"
    token = found[5 + 2].tolist()  # second row, third column
    assert 3 * (4 * 20 + 8) in token and 3 * (7 * 20 + 11) + 2 in token
    assert 3 * (3 * 20 + 8) not in token and 3 * (4 * 20 + 12) not in token


def test_scores_lie_where_the_boxes_are():
    found = torch.zeros(1, 4, 6)
    found[0, 0] = torch.tensor([0, 0, 33, 17, 0.9, 1])
    found[0, 1] = torch.tensor([0, 0, 17, 17, 0.4, 1])
    found[0, 2] = torch.tensor([20, 20, 30, 30, 0.5, 0])
    expected = torch.zeros(1, 4, 2)
    expected[0, 0, 1] = expected[0, 1, 1] = 0.9
    expected[0, 3, 0] = 0.5
    assert torch.equal(class_map(found, 2, (2, 2)), expected)


def test_the_distance_is_none_of_equal_outputs_and_bounded(task, outputs):
    assert outputs.shape == (2, LIMIT + 16, 6)
    assert torch.equal(task.output_distance(outputs, outputs), torch.zeros(2, 16))
    other = outputs.flip(0)
    distance = task.output_distance(outputs, other)
    assert distance.shape == (2, 16) and (distance > 0).all() and (distance <= len(CLASSES) + 2).all()
    torch.testing.assert_close(distance, task.output_distance(other, outputs))


def test_a_class_that_vanishes_is_seen_where_it_was(task, outputs):
    without = outputs.clone()
    without[0, :LIMIT] = 0
    score = torch.tensor([0.0, 0, 17, 17, 0.81, 1])
    with_one = without.clone()
    with_one[0, 0] = score
    distance = task.output_distance(with_one, without)
    torch.testing.assert_close(distance[0, 0], torch.tensor(0.81), atol=1e-3, rtol=0)
    assert not distance[0, 1:].any() and not distance[1].any()


def test_gradients_reach_every_token_of_the_features(task):
    frame = task.preprocess(torch.randint(0, 256, (1, 48, 64, 3), dtype=torch.uint8))
    features = task.model.forward_features(frame).requires_grad_()
    noisy = features + 0.1 * torch.randn_like(features)
    task.output_distance(task.model.forward_head(noisy), task.model.forward_head(features).detach()).sum().backward()
    assert torch.isfinite(features.grad).all() and (features.grad.abs().sum(1) > 0).all()


def test_the_saliency_is_the_objectness(task, outputs):
    saliency = task.saliency(outputs)
    assert saliency.shape == (2, 16) and (saliency > 0).all() and (saliency < 1).all()


def test_perfect_detections_have_no_loss_and_the_whole_metric(task):
    truth = target((0, 0, 32, 20), (40, 20, 60, 44))
    perfect = torch.zeros(1, LIMIT + 16, 6)
    scale = 40 / 48
    perfect[0, :2, :4] = truth["boxes"] * scale
    perfect[0, :2, 4] = 1
    assert float(task.loss(perfect, [truth])) == 0
    assert float(task.frame_metric(perfect, [truth])) == 1
    metric = task.metric()
    metric.update("a", perfect, [truth])
    assert metric.compute() == 1
    (found,) = task.predictions(perfect, (48, 64))
    torch.testing.assert_close(torch.tensor([one["box"] for one in found]), truth["boxes"])
    assert [one["label"] for one in found] == ["dog", "dog"]
    assert float(task.loss(torch.zeros_like(perfect), [truth])) > 0


def test_half_of_a_box_is_a_hit_by_one_rule_alone(task):
    truth = target((0, 0, 48, 48), size=(40, 40))  # not enlarged
    half = torch.zeros(1, LIMIT + 16, 6)
    half[0, 0] = torch.tensor([0, 0, 48, 24, 0.9, 0])
    values = []
    for metric in (task.metric(), task.metric(COCO)):
        metric.update("a", half, [truth])
        values.append(metric.compute())
    assert values == [0, 1]


def test_frames_are_decoded_when_they_are_asked_for(official):
    task = tiny(root=official, splits={"test": "val"}, classes=None, empty="drop")
    # Sequences of one frame are left out: there is nothing to decide in them.
    clips = task.clips("test")
    assert [clip.name.partition(":")[2] for clip in clips] == ["0-1", "0-1"]
    clip = clips[0]
    assert clip.frames_THWC.shape == (2, 24, 32, 3) and len(clip) == 2
    assert clip.frames_THWC[1].shape == (24, 32, 3) and int(clip.frames_THWC[1].float().mean()) == 10
    assert clip.frames_THWC[1:].shape == (1, 24, 32, 3)
    assert len(list(clip.frames_THWC)) == 2
    path = official / "Data/VID/val/ILSVRC2015_val_00000000/000001.JPEG"
    path.write_bytes(b"")
    with pytest.raises(VideoError, match=r"000001\.JPEG cannot be read"):
        clip.frames_THWC[1]


def test_frames_of_another_size_are_named(official, tmp_path):
    for name, size in (("a", (32, 24)), ("b", (40, 24))):
        Image.new("RGB", size).save(tmp_path / f"{name}.jpg")
    with pytest.raises(VideoError, match=r"b\.jpg is 40x24 \(width x height\), the first of its clip is 32x24"):
        ImageFrames([tmp_path / "a.jpg", tmp_path / "b.jpg"])[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layout": "none"}, "layout must be one of official, published, coco, got 'none'"),
        ({"canvas": 100}, "multiple of 16 pixels, got 100"),
        ({"architecture": {"width": 3}}, "architecture"),
        ({"architecture": TINY | {"heads": 5}}, "embed_dim must be a multiple of heads"),
        ({"architecture": TINY | {"patch_size": 8}}, "patch_size cannot be chosen"),
        ({"architecture": TINY | {"anchor": float("nan")}}, "anchor must be finite"),
        ({"proposals": 0}, "must be positive"),
        ({"classes": ["a", "a"]}, "'a' is listed twice"),
        ({"model": torch.nn.Linear(2, 2)}, "needs a detector of envs.vitdet.detector, got Linear"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        tiny(**({"root": tmp_path} | options))


def test_videos_that_are_not_there(tmp_path, official, coco_video):
    with pytest.raises(UserError, match=r"give task_options\.root"):
        tiny().clips("train")
    with pytest.raises(UserError, match=r"train\.txt is missing"):
        tiny(root=official, classes=None).clips("train")
    with pytest.raises(UserError, match="no sequence of 2 frames or more with frames of"):
        tiny(root=official, classes=None, splits={"train": "val"}, frame_size=[1, 1]).clips("train")
    with pytest.raises(UserError, match=r"has the classes \[plane, dog, zebra\].*know \[dog, zebra\]: give classes"):
        tiny(root=coco_video.parent, layout="coco").clips("annotations")
    known = tiny(root=coco_video.parent, layout="coco", classes=["plane", "dog", "zebra"])
    assert known.clips("annotations")


def test_train_evaluate_and_infer(tmp_path):
    root, name = tmp_path / "vid", "envs.vid.task:VidDetection"
    for split in ("train", "val", "test"):
        write_official(root, split, [moving(f"{split}-{k}", k) for k in range(2)], ClassList(tuple(CLASSES)))
    options = {"root": str(root), "canvas": 64, "proposals": 8, "classes": CLASSES, "architecture": TINY}
    shared = [f"task={name}", *(f"task_options.{key}={json.dumps(value)}" for key, value in options.items())]
    out = tmp_path / "run"
    train = ["estimator=reinforce", "warm_start=none", "streams=2", "steps=1", "window=2", "segment=2", "hidden=8"]
    train += ["calibration_streams=1", "calibration_frames=3", "policy_budgets=[0.5]", "budget_min=0.5"]
    train += ["budget_max=0.6", "saliency_exponents=[1]", "saliency_floors=[0.1]", f"out={out}"]
    policy._main([*shared, *train])
    measured = ["policies=[Learned,TopR]", "budgets=[0.5]", "bootstrap=5", "calibration_frames=3", "plots=false"]
    measured += ["calibration_streams=1", "latency_frames=1", f"policy={out / 'policy'}", f"out={out / 'evaluation'}"]
    evaluate._main([*shared, *measured])
    assert "mAP50" in (out / "evaluation/table.md").read_text()
    (result, *_) = eventful.infer.run(root / "Data/VID/test/test-0", out / "policy", name, options, max_frames=2)
    assert result.flush and result.macs_ratio > 0.9


def moving(name, seed, frames=4):
    """A bright square that moves over noise."""
    random = torch.Generator().manual_seed(seed)
    frames_THWC = torch.randint(0, 80, (frames, 48, 64, 3), generator=random, dtype=torch.uint8)
    targets = []
    for t in range(frames):
        frames_THWC[t, 10:30, 8 * t : 8 * t + 20] = 220
        targets.append({"boxes": torch.tensor([[8.0 * t, 10, 8 * t + 20, 30]]), "labels": torch.tensor([seed % 2])})
    return Clip(name, frames_THWC, targets)
