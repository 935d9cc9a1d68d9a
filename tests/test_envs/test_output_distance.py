"""Distances of outputs against closed forms, and the tasks that are made of them."""

import math

import pytest
import torch
from doom_detector import small_detector
from hypothesis import given
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer

from envs.damage import DamageMeter, Objective, default_kind
from envs.distill import Distillation
from envs.doom.task import DoomDetection
from envs.output_distance import class_distance, dense_distance, detection_distance
from envs.rewards import Reward
from eventful.families import adapt


def test_detections_by_hand() -> None:
    p_BNC, q_BNC = torch.tensor([[[0.64, 0.0], [0.0, 0.5]]]), torch.tensor([[[0.16, 0.09], [0.0, 0.5]]])
    moved_BN = detection_distance(p_BNC, q_BNC, torch.tensor([[0.25, 1.0]]))
    assert moved_BN[0].tolist() == pytest.approx([0.4**2 + 0.3**2 + 0.16 * 0.75, 0.0], abs=1e-3)


def test_classes_by_hand() -> None:
    sure, other, even = torch.tensor([[40.0, 0.0], [0.0, 40.0], [0.0, 0.0]]).split(1)
    assert float(class_distance(sure, other)) == pytest.approx(1.0)
    # p = (1, 0), q = (1/2, 1/2), m = (3/4, 1/4), in bits.
    expected = (math.log2(4 / 3) + 0.5 * math.log2(2 / 3) + 0.5 * math.log2(2)) / 2
    assert float(class_distance(sure, even)) == pytest.approx(expected, abs=1e-6)


def test_dense_outputs_by_hand() -> None:
    a, b = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]), torch.tensor([[[0.0, 3.0], [0.0, 1.0]]])
    assert dense_distance(a, b)[0].tolist() == pytest.approx([1.0, 0.0])
    assert dense_distance(a[:, 0], -a[:, 0]).tolist() == [[2.0]]


@given(seed=st.integers(0, 200), scale=st.sampled_from([0.1, 3.0, 200.0]))
def test_all_are_symmetric_bounded_and_nothing_between_equals(seed: int, scale: float) -> None:
    random = torch.Generator().manual_seed(seed)
    a, b = (scale * torch.randn(2, 5, 3, generator=random) for _ in range(2))
    overlap = torch.rand(2, 5, generator=random)
    pairs = [
        (lambda x, y: detection_distance(x.sigmoid(), y.sigmoid(), overlap), 4.0),
        (lambda x, y: class_distance(x[:, 0], y[:, 0]), 1.0),
        (dense_distance, 2.0),
    ]
    for distance, most in pairs:
        there, back = distance(a, b), distance(b, a)
        torch.testing.assert_close(there, back, atol=1e-6, rtol=1e-5)
        assert float(there.min()) >= -1e-6 and float(there.max()) <= most + 1e-5
    assert float(detection_distance(a.sigmoid(), a.sigmoid(), torch.ones(2, 5)).abs().max()) == 0
    assert float(class_distance(a[:, 0], a[:, 0]).abs().max()) < 1e-6
    assert float(dense_distance(a, a).abs().max()) < 1e-6


@pytest.mark.parametrize("logit", [0.0, -30.0, -200.0, 200.0])
def test_gradients_are_finite_where_outputs_are_equal_and_where_probabilities_vanish(logit: float) -> None:
    for other in (logit, -logit, 3.0):
        x = torch.full((1, 4, 3), logit, requires_grad=True)
        y = torch.full((1, 4, 3), other)
        total = detection_distance(x.sigmoid(), y.sigmoid(), torch.full((1, 4), 0.5)).sum()
        total = total + class_distance(x[:, 0], y[:, 0] * torch.tensor([1.0, 0.5, 0.0])).sum()
        (slope,) = torch.autograd.grad(total, x)
        assert torch.isfinite(slope).all() and float(slope.abs().max()) < 10


def test_the_detector_says_where_it_has_moved_and_what_it_saw() -> None:
    task = DoomDetection(small_detector())
    outputs = task.model(torch.randn(2, 3, 240, 320))
    changed = outputs.clone()
    changed[1, 7, 0] += 6.0
    changed[1, 9, -4:] += 2.0
    distance_BN = task.output_distance(changed, outputs)
    assert (distance_BN > 1e-5).nonzero().tolist() == [[1, 7], [1, 9]]
    saliency_BN = task.saliency(changed)
    assert saliency_BN.shape == (2, 300)
    assert float(saliency_BN[1, 7]) == pytest.approx(float(changed[1, 7, :-4].sigmoid().max()))
    assert default_kind(task) == "output"


def tiny(**kwargs) -> VisionTransformer:
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, **kwargs)


def test_any_models_own_head_is_a_consumer() -> None:
    task = Distillation(tiny(num_classes=7))
    meter = DamageMeter(task, adapt(task.model), output=True)
    frame, other = torch.randn(2, 2, 3, 32, 32)
    damage = meter.damage(meter.dense(other, []), meter.dense(frame, []))
    expected_B1 = class_distance(task.model(other), task.model(frame))
    torch.testing.assert_close(damage.output_BN, expected_B1)
    assert Reward("output").damage_by_token(damage) is None, "it is one of the whole frame"
    torch.testing.assert_close(Objective(0, 0, output=2, output_worst=1).of_frame(damage), 3 * expected_B1[:, 0])
    assert default_kind(task) == "output" and task.saliency is None


def test_dense_outputs_of_a_head_are_compared_token_by_token_and_features_are_no_head() -> None:
    task = Distillation(tiny(num_classes=7, global_pool=""))
    meter = DamageMeter(task, adapt(task.model), output=True)
    frame, other = torch.randn(2, 2, 3, 32, 32)
    damage = meter.damage(meter.dense(other, []), meter.dense(frame, []))
    objective = Objective(fidelity=0.5, worst=0.1, output=1, output_worst=0.1)
    by_token_BN = objective.by_token(damage)
    assert by_token_BN is not None and by_token_BN.shape == (2, 17)
    torch.testing.assert_close(by_token_BN.sum(1), objective.of_frame(damage))
    assert float(Objective(0, 0, output=1).by_token(damage)[:, 0].abs().max()) == 0, "prefix tokens have no output"
    bare = Distillation(tiny(num_classes=0))
    assert bare.output_distance is None and default_kind(bare) == "fidelity"
    with pytest.raises(ValueError, match="output_distance, which task distill does not"):
        DamageMeter(bare, adapt(bare.model), output=True)


def test_distances_of_another_shape_are_refused() -> None:
    task = Distillation(tiny(num_classes=7))

    class Wrong:
        name, has_labels = "wrong", False
        output_distance = staticmethod(lambda outputs, dense: outputs - dense)

    meter = DamageMeter(Wrong(), adapt(task.model), output=True)  # type: ignore[arg-type]
    outcome = meter.dense(torch.randn(2, 3, 32, 32), [])
    with pytest.raises(ValueError, match=r"output_distance of task wrong must be \(2, 16\).*got \(2, 7\)"):
        meter.damage(outcome, outcome)
