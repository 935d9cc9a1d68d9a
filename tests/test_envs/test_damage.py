"""Damage: one definition, for tokens and for maps, for losses and for rewards."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from family_zoo import build, clip
from tiny_task import TinyTask

import eventful
import policies
from envs.damage import Damage, DamageMeter, Objective, Outcome, frame_metric
from envs.rewards import Reward
from eventful.fidelity import as_tokens, distances, token_distance


def test_maps_are_tokens_row_by_row() -> None:
    tokens_BND = torch.randn(2, 12, 5)
    maps_BDYX = tokens_BND.transpose(1, 2).unflatten(2, (3, 4))
    assert torch.equal(as_tokens(maps_BDYX), tokens_BND) and torch.equal(as_tokens(tokens_BND), tokens_BND)
    other_BND = torch.randn(2, 12, 5)
    other_BDYX = other_BND.transpose(1, 2).unflatten(2, (3, 4))
    torch.testing.assert_close(distances(maps_BDYX, other_BDYX), distances(tokens_BND, other_BND))


@pytest.mark.parametrize("name", ["ViT", "SAM image encoder", "ViTDet, pooled keys"])
def test_an_unchanged_model_has_no_damage_and_a_frozen_one_has(name: str) -> None:
    vit, frames = build(name), clip(3)
    for policy, low, high in ((policies.All(), -1e-6, 1e-5), (policies.Nothing(), 1e-3, 2.0)):
        model = eventful.wrap(vit, policy)
        with torch.no_grad():
            features = [model.forward_features(frame) for frame in frames][-1]
            mean_B, worst_B = token_distance(features, vit.forward_features(frames[-1]))
        assert low <= float(mean_B) <= float(worst_B) + 1e-6 and float(worst_B) <= high


def random_damage(tokens: int = 30) -> Damage:
    distance_BN, loss_BN = torch.rand(2, tokens), torch.randn(2, tokens)
    worst_B = distance_BN.topk(20).values.mean(1)
    return Damage(distance_BN, distance_BN.mean(1), worst_B, loss_BN.sum(1), loss_BN, torch.rand(2))


@pytest.mark.parametrize(
    "weights", [{}, {"fidelity": 0.0, "worst": 2.0}, {"task": 0.7}, {"fidelity": 0.0, "task": 1.0}]
)
def test_the_tokens_parts_sum_to_the_frames(weights: dict[str, float]) -> None:
    objective, damage = Objective(**weights), random_damage()
    by_token_BN = objective.by_token(damage)
    assert by_token_BN is not None
    torch.testing.assert_close(by_token_BN.sum(1), objective.of_frame(damage))


def test_a_part_of_the_whole_frame_has_no_tokens() -> None:
    damage = random_damage()
    assert Objective(metric=0.1).by_token(damage) is None
    expected = Objective().of_frame(damage) + 0.1 * damage.metric_B
    torch.testing.assert_close(Objective(metric=0.1).of_frame(damage), expected)


def test_losses_and_rewards_are_one_objective() -> None:
    task = TinyTask()
    model = eventful.wrap(task.model, policies.Nothing())
    meter = DamageMeter(task, model.backbone, loss=True, metric=True)
    frames = task.preprocess(task.clips("train")[0].frames_THWC)
    targets = task.clips("train")[0].targets
    model(frames[:1])
    with torch.no_grad():
        outcome = meter.outcome(model.forward_features(frames[4:5]), targets[4:5])
    dense = meter.dense(frames[4:5], targets[4:5])
    damage = meter.damage(outcome, dense)
    objective = Objective(fidelity=0.4, worst=0.3, task=0.2, metric=0.1)
    (reward,) = Reward(objective, scale=0.5, weight=0.0).of_frame(damage, [0.1], [0.1])
    assert reward == pytest.approx(-2 * float(objective.of_frame(damage)))
    assert float(objective.of_frame(meter.damage(dense, dense))) == pytest.approx(0, abs=1e-6)


def test_outcomes_are_taken_apart_and_joined() -> None:
    whole = Outcome(torch.randn(3, 4, 2), torch.rand(3), None, torch.tensor([0.1, torch.nan, 0.3]))
    again = Outcome.cat([whole.of_stream(b) for b in range(3)])
    assert torch.equal(again.tokens_BND, whole.tokens_BND) and again.loss_BN is None
    assert whole.of_stream(1).nbytes == 4 * (8 + 1 + 1)


def test_outputs_may_be_tables() -> None:
    outputs = {"scores": torch.rand(3, 4), "parts": (torch.rand(3, 2), torch.rand(3))}
    whole = Outcome(torch.randn(3, 4, 2), outputs=outputs)
    again = Outcome.cat([whole.of_stream(b) for b in range(3)])
    assert torch.equal(again.outputs["parts"][1], outputs["parts"][1])
    seen = []

    class Metric:
        def update(self, clip: str, outputs: Any, targets: Sequence[Any]) -> None:
            seen.append(outputs["scores"].shape)
            self.value = float(outputs["scores"].sum() + targets[0])

        def compute(self) -> float:
            return self.value

    task: Any = SimpleNamespace(name="tables", metric=Metric)
    expected = outputs["scores"].sum(1) + torch.arange(3)
    torch.testing.assert_close(frame_metric(task, outputs, [0, 1, 2]), expected)
    assert seen == [(1, 4)] * 3


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"fidelity": -1.0}, "objective.fidelity must be at least 0"),
        ({"worst": float("nan")}, "objective.worst must be a finite number"),
        ({"fidelity": 0.0, "worst": 0.0}, "must not all be 0"),
    ],
)
def test_weights_that_say_nothing_are_refused(weights: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Objective(**weights)


def test_labels_are_needed_for_losses() -> None:
    task = TinyTask(has_labels=False)
    with pytest.raises(ValueError, match="need labels, which task tiny does not have"):
        DamageMeter(task, eventful.wrap(task.model, policies.All()).backbone, loss=True, metric=False)
