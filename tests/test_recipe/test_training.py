"""The loop that trainings share: rates, decay, resumption, what is refused."""

import math

import pytest
import torch
from torch import nn

from eventful.errors import UserError
from train.config import check_settings
from train.recipe.training import Recipe, Training, rate

SMALL = dict(steps=4, batch=1, warmup=1, save_every=2, look_every=2)


def a_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 1))


def start(model, folder, shares=(1.0,), settings=None, **changes):
    parts = dict(zip([model] if len(shares) == 1 else [model[0], model[2]], shares, strict=True))
    return Training(model, parts, Recipe(**SMALL | changes), settings or {"lr": 1}, folder, "rows")


def loss_of(model):
    return lambda generator: model(torch.randn(2, 3, generator=generator)).square().mean()


def test_the_learning_rate_rises_and_falls():
    recipe = Recipe(steps=100, warmup=10)
    rates = [rate(step, recipe) for step in range(101)]
    assert rates[0] == 0.1 and rates[10] == 1 and rates[55] == pytest.approx(0.5) and rates[100] == pytest.approx(0)


def test_interrupted_is_uninterrupted_to_the_bit(tmp_path):
    whole, parts = a_model(), a_model()
    start(whole, tmp_path / "whole").fit(loss_of(whole), lambda: "")
    training = start(parts, tmp_path / "parts")
    save = training._save

    def save_and_stop():
        save()
        raise KeyboardInterrupt

    training._save = save_and_stop
    with pytest.raises(KeyboardInterrupt):
        training.fit(loss_of(parts), lambda: "")
    resumed = a_model()
    training = start(resumed, tmp_path / "parts")
    assert training.resume() and training.step == 2
    training.fit(loss_of(resumed), lambda: "")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    again = start(a_model(), tmp_path / "parts")
    assert not again.resume()


def test_the_log_says_loss_and_look(tmp_path, capsys):
    model = a_model()
    start(model, tmp_path).fit(loss_of(model), lambda: "looks well")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split()[:2] for line in lines] == [["step", "2"], ["step", "4"]]
    assert "looks well" in lines[0] and lines[0].endswith("rows/s") and capsys.readouterr().out.count("\n") == 2


def test_parts_have_their_shares_and_matrices_their_decay(tmp_path):
    model = a_model()
    before = [p.clone() for p in model.parameters()]
    training = start(model, tmp_path, shares=(0.0, 1.0), weight_decay=0.5, steps=1)
    training.fit(loss_of(model), lambda: "")
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert moved == [False, False, True, True]
    # AdamW shrinks what has no gradient by its decay alone: matrices, not biases.
    model = a_model()
    before = [p.clone() for p in model.parameters()]
    start(model, tmp_path / "still", weight_decay=0.5, steps=1, lr=0.1).fit(
        lambda generator: 0.0 * loss_of(model)(generator), lambda: ""
    )
    for old, new in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(new, old * (0.95 if old.dim() > 1 else 1.0))


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path):
    model = a_model()
    with pytest.raises(UserError, match="not finite at step 0; lower lr"):
        start(model, tmp_path).fit(lambda generator: model[0].weight.sum() * math.nan, lambda: "")


def test_states_of_other_settings_or_damaged_are_refused(tmp_path):
    model = a_model()
    start(model, tmp_path).fit(loss_of(model), lambda: "")
    with pytest.raises(UserError, match=r"belongs to a run with other settings \(lr\)"):
        start(model, tmp_path, settings={"lr": 2}).resume()
    (tmp_path / "state.pt").write_bytes(b"x")
    with pytest.raises(UserError, match=r"state\.pt is damaged"):
        start(model, tmp_path).resume()


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("batch", 0), ("lr", 0.0), ("seed", -1), ("threads", -1)])
def test_what_cannot_be_is_refused(name, value):
    with pytest.raises(UserError, match=name):
        check_settings(Recipe(**{name: value}))
