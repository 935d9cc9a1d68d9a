"""The recipe of tuning: the published steps, exact resume, what it keeps and refuses."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_vivit import small_layout
from torch import Tensor

from envs.vivit import TemporalClassifier, ViViT, video_probabilities
from eventful.errors import UserError
from train.tuning.accuracy import accuracy
from train.tuning.tuner import Tuner, TuningOptions, loss_of

LABELS = [3, 96, 0, 10, 50, 7]


def features() -> Tensor:
    return torch.from_numpy(np.random.RandomState(2).standard_normal((6, 12, 4, 48)).astype(np.float32))


def tuner(model: TemporalClassifier, folder: Path, **options: object) -> Tuner:
    x_BVSD = features()
    examples = [lambda i=i: x_BVSD[i] for i in range(6)]
    return Tuner(model, examples, LABELS, TuningOptions(**options), folder, {"lr": options.get("lr")})  # type: ignore[arg-type]


def nothing() -> dict[str, float]:
    return {}


def near(values: Tensor, golden: object, within: float) -> None:
    torch.testing.assert_close(values, torch.tensor(golden), atol=within, rtol=0)


def test_the_published_steps(small_vivit: ViViT, tmp_path: Path) -> None:
    # Figures of Eventful Transformers' own code (commit fc53c2c): all six videos in one batch, without dropout.
    with torch.no_grad():
        logits_BVK = small_vivit.temporal(features())
    probabilities = [0.006600901, 0.008198373, 0.002171431, 0.009113001, 0.01581165, 0.01061623]
    near(video_probabilities(logits_BVK).flatten()[[0, 116, 232, 348, 464, 581]], probabilities, 1e-7)
    near(loss_of(logits_BVK, torch.tensor(LABELS), "cross_entropy"), 4.618011, 2e-6)

    run = tuner(small_vivit.temporal, tmp_path, lr=1e-3, epochs=4, batch=6, dropout=0.0)
    run.fit(nothing, lambda row: None)
    losses = [row["train_loss"] for row in run.history[1:]]
    near(torch.tensor(losses), [4.572117, 4.554335, 4.524588, 4.492085], 2e-6)
    golden = {
        "temporal_model.class_token": ([0, 15, 31, 47], [0.124016, 0.3068581, 0.4847803, -0.1616311]),
        "temporal_model.backbone.position_encoding.encoding": (
            [0, 79, 159, 239],
            [-0.07645349, 0.120096, 0.03706577, -0.2709129],
        ),
        "temporal_model.backbone.blocks.1.mlp_2.weight": (
            [0, 3071, 6143, 9215],
            [0.04037257, -0.01379825, 0.128666, -0.036251],
        ),
        "temporal_model.layer_norm.weight": ([0, 15, 31, 47], [1.080381, 1.104714, 1.123629, 1.013581]),
        "classifier.weight": ([0, 1551, 3103, 4655], [0.1081691, -0.1621803, 0.1663199, -0.1027172]),
    }
    for name, (index, values) in golden.items():
        near(small_vivit.state_dict()[small_layout().renamed(name)].flatten()[index], values, 2e-6)


@pytest.mark.parametrize("stop", [1, 2, 4, 5])
def test_an_interrupted_run_repeats_the_numbers_of_one_that_was_not(
    small_vivit: ViViT, tmp_path: Path, stop: int
) -> None:
    options = dict(lr=1e-3, epochs=3, batch=4, dropout=0.5, save_every=1)
    whole, broken = copy.deepcopy(small_vivit.temporal), copy.deepcopy(small_vivit.temporal)
    straight = tuner(whole, tmp_path / "whole", **options)
    straight.fit(nothing, lambda row: None)

    class Breaks(Tuner):
        def _one_step(self, index):
            if self.step == stop:
                raise InterruptedError
            return super()._one_step(index)

    first = tuner(broken, tmp_path / "broken", **options)
    first.__class__ = Breaks
    with pytest.raises(InterruptedError):
        first.fit(nothing, lambda row: None)
    again = tuner(copy.deepcopy(small_vivit.temporal), tmp_path / "broken", **options)
    assert again.resume() and again.step == stop
    torch.rand(stop)  # whatever else draws random numbers is no matter
    again.fit(nothing, lambda row: None)
    assert again.history == straight.history and len(again.history) == 4
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again._model.state_dict()[name], tensor), name


def test_order_and_dropout_come_from_the_seed(small_vivit: ViViT, tmp_path: Path) -> None:
    def losses(name: str, **options: object) -> list[float]:
        run = tuner(copy.deepcopy(small_vivit.temporal), tmp_path / name, epochs=2, batch=3, **options)
        run.fit(nothing, lambda row: None)
        return [row["train_loss"] for row in run.history[1:]]

    assert losses("a", seed=1) == losses("b", seed=1) != losses("c", seed=2)
    assert losses("d", seed=1, dropout=0.0) != losses("e", seed=1)


def test_ordinary_cross_entropy_learns_faster_at_the_same_rate(small_vivit: ViViT, tmp_path: Path) -> None:
    found = {}
    for loss in ("published", "cross_entropy"):
        model = copy.deepcopy(small_vivit.temporal)
        run = tuner(model, tmp_path / loss, loss=loss, lr=1e-3, epochs=12, batch=6, dropout=0.0)
        run.fit(nothing, lambda row: None)
        found[loss] = accuracy(model, [lambda i=i: features()[i] for i in range(6)], LABELS, 4)
    assert found["cross_entropy"].loss < found["published"].loss < 4.618
    assert found["cross_entropy"].top1 == 1.0


def test_accuracy_counts_the_most_probable_classes(small_vivit: ViViT) -> None:
    model = small_vivit.temporal
    with torch.no_grad():
        best_BK = model(features()).mean(1).topk(6).indices
    labels = [int(best_BK[b, rank]) for b, rank in enumerate([0, 0, 1, 4, 5, 0])]
    found = accuracy(model.train(), [lambda i=i: features()[i] for i in range(6)], labels, 4)
    assert (found.top1, found.top5) == (pytest.approx(3 / 6), pytest.approx(5 / 6))


def test_states_of_other_runs_and_damaged_ones_are_refused(small_vivit: ViViT, tmp_path: Path) -> None:
    tuner(small_vivit.temporal, tmp_path, lr=1e-3, epochs=0).fit(nothing, lambda row: None)
    with pytest.raises(UserError, match=r"tuning\.pt belongs to a run with other settings \(lr\)"):
        tuner(small_vivit.temporal, tmp_path, lr=2e-3).resume()
    (tmp_path / "tuning.pt").write_bytes((tmp_path / "tuning.pt").read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        tuner(small_vivit.temporal, tmp_path, lr=1e-3).resume()
    assert not tuner(small_vivit.temporal, tmp_path / "elsewhere").resume()


def test_a_loss_that_is_not_finite_ends_the_training(small_vivit: ViViT, tmp_path: Path) -> None:
    with torch.no_grad():
        small_vivit.temporal.classifier.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="not finite at step 0; lower lr"):
        tuner(small_vivit.temporal, tmp_path).fit(nothing, lambda row: None)
