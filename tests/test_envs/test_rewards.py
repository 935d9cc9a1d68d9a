"""Rewards and info of the selection environments, in their stated units."""

import gymnasium
import numpy as np
import pytest
import torch
from tiny_task import TinyTask

import envs
from envs.damage import Objective
from envs.registration import IDS
from envs.rewards import Reward
from policies import TopR


@pytest.fixture(params=IDS)
def name(request):
    return request.param


def test_selecting_everything_is_the_dense_model(name):
    env = gymnasium.make(name, task=TinyTask(), reward={"kind": "loss", "weight": 0.0})
    env.reset(seed=0)
    for _ in range(env.unwrapped.engine.layout.gates):
        _, reward, _, _, info = env.step(np.ones(env.action_space.shape, np.int8))
    assert reward == pytest.approx(0, abs=1e-5)
    assert info["fidelity"]["distance"] == pytest.approx(0, abs=1e-5)
    assert info["loss"] == pytest.approx(info["dense_loss"], abs=1e-5)
    assert info["share"] > 0.99
    np.testing.assert_array_equal(info["rates"], 1)


def test_rewards_are_in_their_stated_units(name):
    """Recomputed from what `info` says, for every kind of damage and cost."""
    for reward in (
        Reward("fidelity", weight=0.3),
        Reward(Objective(fidelity=0.5, worst=0.3, task=0.2), scale=2.0),
        Reward("loss", scale=2.0, cost="share", weight=0.1),
        Reward("metric", scale=0.5, weight=0.0),
    ):
        env = gymnasium.make(name, task=TinyTask(), reward=reward, budget=0.2)
        env.reset(seed=3)
        nothing = np.zeros(env.action_space.shape, np.int8)
        for _ in range(3 * env.unwrapped.engine.layout.gates):
            *_, got, _, _, info = env.step(nothing)
        distance, worst, excess = *info["fidelity"].values(), info["loss"] - info["dense_loss"]
        damage = {
            "fidelity": (distance + 0.1 * worst) / 0.1,
            "loss": excess / 2,
            "metric": (info["dense_metric"] - info["metric"]) / 0.5,
        }.get(str(reward.kind), (0.5 * distance + 0.3 * worst + 0.2 * excess) / 2)
        cost = info["share"] if reward.cost == "share" else np.log(info["share"] / 0.2) ** 2
        assert got == pytest.approx(-damage - reward.weight * cost, abs=1e-6)


def test_info_is_the_ledger_of_the_model(name):
    """The same frames through the wrapped model, with a policy in the place of the agent."""
    task = TinyTask()
    env = gymnasium.make(name, task=task)
    env.reset(seed=0, options={"clip": 1})
    engine = env.unwrapped.engine
    model = envs.engine.eventful.wrap(task.model, TopR(6), granularity=engine.layout.granularity)
    frames = task.preprocess(task.clips("train")[1].frames_THWC)
    model(frames[:1])
    for t in range(1, 5):
        features = model.forward_features(frames[t : t + 1])
        for _ in range(engine.layout.gates):
            observation = engine.observe()
            mask = TopR(6).select(observation).as_mask(engine.layout.tokens)
            _, _, _, _, info = env.step(mask[0].numpy().astype(np.int8))
        torch.testing.assert_close(engine.groups[0].state.macs.total, model.macs.total)
        assert info["share"] == pytest.approx(float(model.macs.ratio))
        assert sum(v for k, v in info["macs"].items() if k not in ("embed", "head")) == pytest.approx(
            float(model.macs.total)
        )
        distance = 1 - torch.cosine_similarity(features, task.model.forward_features(frames[t : t + 1]), dim=-1)
        assert info["fidelity"]["distance"] == pytest.approx(float(distance.mean()), abs=1e-6)
        np.testing.assert_allclose(info["rates"], 6 / 17, atol=1e-6)
