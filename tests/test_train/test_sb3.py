"""Environments with a library of somebody else's: Stable-Baselines3."""

import gymnasium
import numpy as np
import pytest
import torch
from tiny_task import TinyTask

import envs  # noqa: F401 (registers the environments)
import eventful
from envs.observation import gate_features
from policies import PolicyMismatch
from train.evaluate import evaluate
from train.evaluate_config import EvaluateConfig
from train.sb3 import SB3Policy

sb3 = pytest.importorskip("stable_baselines3")


def ppo(env, **options):
    return sb3.PPO("MlpPolicy", env, seed=0, device="cpu", **options)


def mean_return(model, env):
    observation, _ = env.reset(seed=0)
    total = 0.0
    for _ in range(30):
        action, _ = model.predict(observation, deterministic=True)
        observation, reward, _, truncated, _ = env.step(action)
        total += reward
        if truncated:
            observation, _ = env.reset()
    return total / 30


@pytest.mark.parametrize("granularity", ["frame", "gate"])
def test_a_model_decides_the_same_in_an_environment_and_as_a_policy(granularity):
    name = f"eventful/{granularity.title()}Selection-v0"
    task = TinyTask((8,))
    env = gymnasium.make(name, task=task, budget=0.3)
    model = ppo(env)
    policy = SB3Policy(model, budget=0.3)
    runner = eventful.wrap(task.model, policy, granularity=granularity)
    frames = task.preprocess(task.clips("train")[0].frames_THWC)
    runner(frames[:1])
    observation, _ = env.reset(seed=0)
    for t in range(1, 5):
        runner(frames[t : t + 1])
        for _ in range(env.unwrapped.engine.layout.gates):
            action, _ = model.predict(observation, deterministic=True)
            observation, *_, info = env.step(action)
        own = {k: float(v) for k, v in runner.macs.by_operation.items() if k != "policy"}
        assert own == pytest.approx({k: v for k, v in info["macs"].items() if k != "policy"})
    assert float(runner.macs.by_operation["policy"]) > 0
    assert policy.name == "SB3-PPO"


def test_a_model_for_other_frames_is_refused():
    model = ppo(gymnasium.make("eventful/GateSelection-v0", task=TinyTask()))
    task = TinyTask()
    runner = eventful.wrap(task.model, SB3Policy(model), granularity="frame")
    frames = task.preprocess(task.clips("train")[0].frames_THWC)
    runner(frames[:1])
    with pytest.raises(PolicyMismatch, match=r"\(17, 13\).*\(17, 9\)"):
        runner(frames[1:2])


def test_what_the_policy_sees_is_what_the_environment_shows():
    env = gymnasium.make("eventful/FrameSelection-v0", task=TinyTask(), budget=0.2).unwrapped
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(gate_features(env.engine.observe(), torch.tensor([0.2]))[0], observation)


def test_a_model_is_evaluated_next_to_other_policies(monkeypatch, tmp_path):
    """By the command, through the wrapper of the docs."""
    task = TinyTask((8, 8))
    ppo(gymnasium.make("eventful/FrameSelection-v0", task=task)).save(tmp_path / "ppo.zip")
    (tmp_path / "my_ppo.py").write_text(
        "from stable_baselines3 import PPO\nfrom train.sb3 import SB3Policy\n"
        "MODEL = PPO.load('ppo.zip', device='cpu')\n"
        "def policy(budget):\n    return SB3Policy(MODEL, budget)\n"
    )
    monkeypatch.chdir(tmp_path)
    settings = dict(budgets=[0.3], bootstrap=10, calibration_streams=2, calibration_frames=6, latency=False)
    config = EvaluateConfig(task="tiny", policies=["TopR", "my_ppo:policy"], out=str(tmp_path / "out"), **settings)
    comparison = evaluate(config, task)
    ours = next(c for c in comparison.lines if c.name == "my_ppo:policy")
    (point,) = comparison.points(ours)
    assert 0 < point.share.value < 1 and point.policy > 0
    assert "my_ppo:policy" in (tmp_path / "out" / "table.md").read_text()
    assert (tmp_path / "out" / "frontier.png").stat().st_size > 10_000


def test_ppo_learns_without_an_adapter():
    env = gymnasium.make("eventful/FrameSelection-v0", task=TinyTask(), budget=0.2)
    model = ppo(env, n_steps=200, batch_size=50, learning_rate=1e-3)
    before = mean_return(model, env)
    model.learn(2000)
    assert model.num_timesteps == 2000
    assert mean_return(model, env) > before
