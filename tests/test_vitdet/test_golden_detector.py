"""Pyramid, proposals, pooling and detections against figures of the authors' own code (detectron2's heads)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_vitdet import golden_input, golden_model, probes
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor

import eventful
import policies
from envs.vitdet.boxes import anchors, decode, level_of, pool
from envs.vitdet.detector import DetectionHead
from envs.vitdet.roi_heads import SINGLE_WEIGHTS, SingleStage, detections

PYRAMID = [
    [0.9608948, -0.3828486, -0.4767072, 0.9242803, -1.103941, -1.218064],
    [2.311489, 0.9348384, -0.2051174, 0.4474344, -2.570175, -0.7371684],
    [-0.8878874, 0.4413179, -1.404344, -0.6794992, -0.2732334, 0.7873614],
    [0.8101076, 0.3996264, -1.414578, -1.061987, 1.029888, 0.2736317],
    [0.8101076, 0.1209539, 0.3535076, -1.633945, 0.908518, 0.933515],
]
ROIS = [
    [0.0, 0, 40, 40], [10.5, 20.25, 100.75, 90.5], [0, 0, 320, 320], [200, 100, 320, 320],
    [5, 5, 229, 229], [5, 5, 6, 300], [100, 100, 101, 101],
]  # fmt: skip
POOLED = [
    [0.8311581, 0.710256, -1.580838, -0.0611736],
    [0.3881222, 0.04008267, -0.9476287, -0.3704784],
    [-0.2875752, 0.6993755, 0.03908287, -0.3222885],
    [0.3395448, -0.3083866, 0.03953436, -0.5253828],
    [-0.3205348, -0.5395191, 0.2131396, 0.2942157],
    [0.5755086, 0.7402983, -0.5336297, -0.3437175],
    [1.085289, -0.9644939, -0.4066207, -0.5080857],
]
LABELS = [16, 8, 16, 8, 16, 8, 8, 16, 16, 8, 16, 8, 8, 8, 16, 8, 16, 8, 8, 16, 16, 6, 8, 8, 8, 16, 16, 8, 8, 8]


@pytest.fixture(scope="module")
def model() -> VisionTransformerSAM:
    torch.set_num_threads(1)
    return golden_model()


@pytest.fixture(scope="module")
def head(model: VisionTransformerSAM) -> DetectionHead:
    head = model.head
    assert isinstance(head, DetectionHead) and isinstance(head.roi_heads, SingleStage)
    return head


@pytest.fixture(scope="module")
def features() -> Tensor:
    return torch.from_numpy(np.random.RandomState(1).standard_normal((1, 48, 20, 20)).astype(np.float32))


@pytest.fixture(scope="module")
def levels(head: DetectionHead, features: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        return head.pyramid(features)


def near(ours: Tensor, theirs: list[float] | list[list[float]], tolerance: float) -> None:
    torch.testing.assert_close(ours, torch.tensor(theirs), atol=tolerance, rtol=0)


def test_pyramid(levels: list[Tensor]) -> None:
    assert [tuple(level.shape) for level in levels] == [(1, 256, side, side) for side in (80, 40, 20, 10, 5)]
    for level, expected in zip(levels, PYRAMID, strict=True):
        near(probes(level), expected, 1e-4)


def test_anchors() -> None:
    finest, *_, coarsest = anchors([(side, side) for side in (80, 40, 20, 10, 5)], torch.device("cpu"))
    assert (len(finest), len(coarsest)) == (19200, 75)
    near(finest[0], [-22.6274166, -11.3137083, 22.6274166, 11.3137083], 1e-4)
    near(finest[1:4:2], [[-16, -16, 16, 16], [-18.6274166, -11.3137083, 26.6274166, 11.3137083]], 1e-4)
    near(coarsest[-1], [74.9806671, -106.038666, 437.019348, 618.038696], 1e-4)
    smaller, *_ = anchors([(80, 80), (40, 40), (20, 20), (10, 10), (5, 5)], torch.device("cpu"), 4)
    near(smaller[1:4:2], [[-8, -8, 8, 8], [-7.3137085, -5.6568542, 15.3137085, 5.6568542]], 1e-4)


def test_proposals(head: DetectionHead, levels: list[Tensor]) -> None:
    with torch.inference_mode():
        ((boxes, logits),) = head.proposal_generator(levels, (320, 320))
    assert len(boxes) == 300
    near(boxes[:2], [[97.411, 170.597, 130.007, 194.269], [283.842, 37.5437, 320.0, 72.1136]], 1e-2)
    near(logits[[0, 1, 2, -1]], [1.65744, 1.57153, 1.56925, 0.919029], 1e-4)


def test_pooling_and_second_stage(head: DetectionHead, levels: list[Tensor]) -> None:
    boxes_K4 = torch.tensor(ROIS)
    assert level_of(boxes_K4).tolist() == [2, 2, 4, 3, 4, 2, 2]
    with torch.inference_mode():
        pooled = pool(levels, [boxes_K4], 7)
        for ours, expected in zip(pooled, POOLED, strict=True):
            near(probes(ours, 4), expected, 1e-4)
        vectors = head.roi_heads.box_head(pooled)
        near(probes(vectors), [0.0, 1.273686, 0.0, 0.3195897, 0.0, 0.0], 1e-4)
        scores, deltas = head.roi_heads.box_predictor(vectors)
    near(scores[0, ::10], [0.04851091, 0.03378115, 0.02305879, 0.01123343], 1e-5)
    decoded = decode(deltas, boxes_K4, SINGLE_WEIGHTS).unflatten(1, (30, 4))
    near(decoded[2, 0], [18.31895, -54.2351, 292.1376, 298.9616], 1e-2)
    near(decoded[3, 29], [214.611, 87.10403, 309.1219, 294.1691], 1e-2)


def test_detections(head: DetectionHead, features: Tensor) -> None:
    with torch.inference_mode():
        (found,) = detections(head(features))
    assert len(found["boxes"]) == 100 and found["labels"][:30].tolist() == LABELS
    near(found["boxes"][:2], [[75.3759, 261.466, 136.462, 285.977], [81.6985, 63.2852, 125.619, 91.006]], 1e-2)
    near(found["scores"][[0, 1, 2, -1]], [0.133819, 0.122777, 0.120525, 0.0842269], 1e-5)


def test_detections_of_a_video_dense_and_eventful(model: VisionTransformerSAM) -> None:
    wrapped = eventful.wrap(model, policies.TopR(100), attention="paper")
    with torch.inference_mode():
        (dense,) = detections(model(golden_input(0)))
        for t in range(2):
            wrapped.forward_features(golden_input(t))
        (third,) = detections(wrapped(golden_input(2)))
    near(dense["boxes"][:2], [[173.991, 179.417, 205.89, 221.733], [106.039, 153.462, 159.99, 184.026]], 1e-2)
    near(dense["scores"][:3], [0.137582, 0.125972, 0.119779], 1e-5)
    assert dense["labels"][:6].tolist() == [16, 16, 8, 16, 16, 8]
    near(third["boxes"][:2], [[0.223286, 102.092, 40.2149, 146.984], [2.46202, 231.405, 45.6863, 293.591]], 1e-2)
    near(third["scores"][:3], [0.145392, 0.131507, 0.124258], 1e-5)
    assert third["labels"][:3].tolist() == [8, 8, 8]
