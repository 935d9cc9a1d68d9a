"""The losses of the detector: those of torchvision's own networks, closed forms, and that they teach."""

import math

import pytest
import torch
from torch import nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from vitdet_tiny import CLASSES, squares, tiny_detector

from envs.detection.iou import paired_iou
from envs.vitdet.boxes import anchors, pool
from envs.vitdet.canvas import Canvas
from envs.vitdet.detector import DetectionHead
from envs.vitdet.roi_heads import Cascade, detections
from eventful.errors import UserError
from train.vitdet.losses import DetectionLosses

SIDE = 128


@pytest.fixture
def targets():
    first = {"boxes": torch.tensor([[10.0, 12, 50, 56], [60, 40, 120, 100]]), "labels": torch.tensor([1, 0])}
    return [first, {"boxes": torch.tensor([[30.0, 30, 62, 62]]), "labels": torch.tensor([1])}]


@pytest.fixture
def features(detector):
    with torch.no_grad():
        return detector.forward_features(torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)))


class Anchors(nn.Module):
    def forward(self, images, features):
        sizes = [tuple(x.shape[-2:]) for x in features]
        return [torch.cat(anchors(sizes, features[0].device))] * len(images.image_sizes)


class Head(nn.Module):
    def __init__(self, own):
        super().__init__()
        self.own = own

    def forward(self, features):
        return tuple(map(list, zip(*(self.own(x) for x in features), strict=True)))


class Predictor(nn.Module):
    """The own one with torchvision's order: the background comes first, and has a box."""

    def __init__(self, own):
        super().__init__()
        self.own = own

    def forward(self, x):
        logits, deltas = self.own.cls_score(x), self.own.bbox_pred(x)
        return logits.roll(1, 1), nn.functional.pad(deltas, (4, 0))


def test_they_are_those_of_torchvisions_networks(detector, features, targets):
    head = detector.head
    torch.manual_seed(5)
    found = DetectionLosses(anchors=16, boxes=12)(head, features, targets)

    levels = head.pyramid(features)
    images = ImageList(torch.zeros(2, 3, SIDE, SIDE), [(SIDE, SIDE)] * 2)
    counts = {"training": 20, "testing": 20}
    rpn = RegionProposalNetwork(
        Anchors(), Head(head.proposal_generator.rpn_head), 0.7, 0.3, 16, 0.5, {"training": 1000}, counts, 0.7
    )
    shifted = [{"boxes": target["boxes"], "labels": target["labels"] + 1} for target in targets]
    torch.manual_seed(5)
    _, first = rpn(images, dict(enumerate(levels)), shifted)
    proposed = [boxes for boxes, _ in head.proposal_generator(levels, (SIDE, SIDE))]
    second = RoIHeads(
        lambda features, boxes, sizes: pool(list(features.values()), boxes, 7),
        head.roi_heads.box_head,
        Predictor(head.roi_heads.box_predictor),
        *(0.5, 0.5, 12, 0.25, (10.0, 10.0, 5.0, 5.0), 0.0, 0.5, 10),
    )
    _, losses = second(dict(enumerate(levels)), [boxes.detach() for boxes in proposed], images.image_sizes, shifted)
    expected = {
        "objectness": first["loss_objectness"],
        "proposals": first["loss_rpn_box_reg"],
        "classes": losses["loss_classifier"],
        "boxes": losses["loss_box_reg"],
    }
    torch.testing.assert_close(found, expected)
    assert all(value > 0 for value in found.values())


def test_who_says_nothing_loses_the_logarithm_of_the_choices(detector, features, targets):
    head = detector.head
    for layer in (head.proposal_generator.rpn_head.objectness_logits, head.roi_heads.box_predictor.cls_score):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    found = DetectionLosses()(head, features, targets)
    assert found["objectness"].item() == pytest.approx(math.log(2))
    assert found["classes"].item() == pytest.approx(math.log(len(CLASSES) + 1))


def test_frames_without_objects_teach_that_there_is_none(detector, features):
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    found = DetectionLosses()(detector.head, features, [nothing] * 2)
    assert found["proposals"] == 0 and found["boxes"] == 0 and found["objectness"] > 0 and found["classes"] > 0
    sum(found.values()).backward()
    bias = detector.head.roi_heads.box_predictor.cls_score.bias.grad
    assert bias[-1] < 0 and (bias[:-1] > 0).all()


def test_gradients_reach_all_weights(detector, targets):
    found = DetectionLosses()(detector.head, detector.forward_features(torch.randn(2, 3, SIDE, SIDE)), targets)
    sum(found.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())


def test_a_frame_is_overfitted():
    canvas, clip, vit = Canvas(96), squares("a", 0), tiny_detector(96, depth=1, global_blocks=[0]).train()
    frame_13EE = canvas.prepare(clip.frames_THWC[:1])
    target = {**clip.targets[0], "boxes": canvas.place(clip.targets[0]["boxes"], (80, 128))}
    optimizer, losses = torch.optim.AdamW(vit.parameters(), lr=5e-3), DetectionLosses(32, 16)
    for _ in range(50):
        total = sum(losses(vit.head, vit.forward_features(frame_13EE), [target]).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    with torch.inference_mode():
        (found,) = detections(vit.eval()(frame_13EE))
    overlap, _ = paired_iou(found["boxes"][0], target["boxes"][0])
    assert overlap > 0.7 and found["labels"][0] == target["labels"][0] and found["scores"][0] > 0.5


def test_cascades_are_refused(features):
    with pytest.raises(UserError, match="Cascade cannot be trained"):
        DetectionLosses()(DetectionHead(24, 20, Cascade(2)), features, [])
