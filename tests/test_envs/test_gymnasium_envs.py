"""The contract of all selection environments, and what is particular to each."""

import warnings
from importlib.metadata import entry_points

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from PIL import Image
from tiny_task import TinyTask

import envs
from envs.registration import IDS
from envs.rewards import Reward
from eventful.errors import StreamError

FRAME, GATE = IDS
UNITS = [("fidelity", True), ("fidelity", False), ("loss", True), ("metric", True)]


@pytest.fixture(params=IDS)
def name(request):
    return request.param


def play(env, seed, steps, share=0.4):
    """Rewards and observations of random actions, over the ends of episodes."""
    random = np.random.default_rng(seed)
    seen = [(env.reset(seed=seed)[0], 0.0)]
    for _ in range(steps):
        action = (random.random(env.action_space.shape) < share).astype(np.int8)
        observation, reward, _, truncated, _ = env.step(action)
        seen.append((observation, reward))
        if truncated:
            seen.append((env.reset()[0], 0.0))
    return seen


@pytest.mark.parametrize(("reward", "labels"), UNITS)
def test_gymnasium_finds_no_fault(name, reward, labels):
    env = gymnasium.make(
        name, task=TinyTask(has_labels=labels), reward=reward, budget=(0.1, 0.5), render_mode="rgb_array"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def test_they_are_found_by_naming_the_module():
    env = gymnasium.make(f"envs:{FRAME}", task=TinyTask())
    assert env.spec.id == FRAME
    envs.register()


def test_the_entry_point_registers_them(monkeypatch):
    found = entry_points(group="gymnasium.envs", name="__root__")
    mine = [point for point in found if point.value.startswith("envs.")]
    assert len(mine) == 1
    for name in IDS:
        monkeypatch.delitem(gymnasium.registry, name)
    mine[0].load()()
    assert set(IDS) <= set(gymnasium.registry)


def test_seeds_reproduce_and_differ(name):
    first, again, other = (
        play(gymnasium.make(name, task=TinyTask(), budget=(0.05, 0.8)), seed, 40) for seed in (1, 1, 2)
    )
    for (a, reward_a), (b, reward_b) in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
        assert reward_a == reward_b
    assert any(not np.array_equal(a, b) for (a, _), (b, _) in zip(first, other, strict=False))


@pytest.mark.parametrize("frames", [None, 2])
@pytest.mark.parametrize(("lengths", "reward"), [((4, 4, 4), "loss"), ((4, 6, 3), "fidelity"), ((4, 6, 3), "metric")])
def test_a_vector_is_its_single_environments(name, lengths, reward, frames):
    """Over several episodes, whose ends fall on the same or on different steps; of limited length, or not."""
    kwargs = {"task": TinyTask(lengths), "budget": (0.1, 0.4), "reward": reward, "num_envs": 3}
    if frames is not None:
        kwargs["max_episode_steps"] = frames * (1 if name == FRAME else 6)
    batched = gymnasium.make_vec(name, vectorization_mode="vector_entry_point", **kwargs)
    single = gymnasium.make_vec(name, vectorization_mode="sync", **kwargs)
    random = np.random.default_rng(0)
    (seen, info), (wanted, wanted_info) = batched.reset(seed=5), single.reset(seed=5)
    np.testing.assert_allclose(seen, wanted, atol=1e-5)
    assert info["clip"].tolist() == wanted_info["clip"].tolist()
    ends = 0
    for _ in range(15 if name == FRAME else 80):
        actions = (random.random(batched.action_space.shape) < 0.3).astype(np.int8)
        one, many = single.step(actions), batched.step(actions)
        np.testing.assert_allclose(many[0], one[0], atol=1e-5)
        np.testing.assert_allclose(many[1], one[1], atol=1e-5)
        np.testing.assert_array_equal(many[2], one[2])
        np.testing.assert_array_equal(many[3], one[3])
        assert many[4].keys() == one[4].keys()
        assert many[4]["frame"].tolist() == one[4]["frame"].tolist()
        ends += many[3].sum()
    assert ends > 3


def test_the_step_after_the_end_is_a_reset_and_no_transition(name):
    env = gymnasium.make_vec(name, num_envs=2, task=TinyTask((4, 6)))
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    env.reset(seed=0)
    nothing = np.zeros(env.action_space.shape, np.int8)
    truncated = np.zeros(2, bool)
    for _ in range(200):
        before = truncated
        _, rewards, terminated, truncated, info = env.step(nothing)
        assert not terminated.any()
        assert (rewards[before] == 0).all() and not truncated[before].any()
        assert (info["frame"][before] == 1).all()
        assert "share" not in info or not info["_share"][before].any()
        if before.any() and not before.all():
            break
    else:
        pytest.fail("no stream ended alone")


def test_an_episode_is_a_clip_from_its_flush(name):
    task = TinyTask((5,))
    env = gymnasium.make(name, task=task)
    _, info = env.reset(seed=0)
    assert (info["frame"], info["gate"], info["clip"]) == (1, 0, "train-0")
    gates = env.unwrapped.engine.layout.gates
    assert gates == (1 if name == FRAME else 6)
    for step in range(1, 4 * gates + 1):
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert not terminated
        assert truncated == (step == 4 * gates)
        assert ("share" in info) == (step % gates == 0)
        assert info["gate"] == step % gates
        assert reward == 0 or step % gates == 0
    with pytest.raises(StreamError, match="reset"):
        env.unwrapped.step(env.action_space.sample())


def test_prefix_tokens_are_updated_whatever_the_action(name):
    env = gymnasium.make(name, task=TinyTask())
    env.reset(seed=0)
    for _ in range(env.unwrapped.engine.layout.gates):
        *_, info = env.step(np.zeros(env.action_space.shape, np.int8))
    np.testing.assert_allclose(info["rates"], 1 / 17)
    assert env.unwrapped.engine.observe().age_BN[0].tolist() == [1] + [2] * 16


def test_budgets_are_drawn_per_episode_and_seen_by_the_agent(name):
    env = gymnasium.make(name, task=TinyTask(), budget=(0.05, 0.5))
    column = env.unwrapped.engine.features.index("budget")
    budgets = set()
    for seed in range(5):
        observation, info = env.reset(seed=seed)
        np.testing.assert_allclose(observation[:, column], np.log(info["budget"]) / 3, rtol=1e-5)
        assert 0.05 <= info["budget"] <= 0.5
        budgets.add(info["budget"])
    assert len(budgets) == 5
    assert env.reset(seed=0, options={"budget": 0.3})[1]["budget"] == 0.3


def test_pictures_tint_what_was_updated(name):
    env = gymnasium.make(name, task=TinyTask((5,)), render_mode="rgb_array")
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape, np.int8)
    action[-1] = 1
    for _ in range(env.unwrapped.engine.layout.gates):
        env.step(action)
    picture = env.render()
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    frame = TinyTask((5,)).clips("train")[0].frames_THWC[1].numpy()
    plain = frame.repeat(picture.shape[0] // 32, 0).repeat(picture.shape[1] // 32, 1)
    changed = (picture != plain).any(-1)
    quarter = picture.shape[0] // 4
    # The header is in the first row of cells.
    assert changed[-quarter + 4 :, -quarter + 4 :].mean() > 0.9
    assert not changed[quarter:-quarter, : 2 * quarter].any()
    many = gymnasium.make_vec(name, num_envs=2, task=TinyTask(), render_mode="rgb_array")
    many.reset(seed=0)
    assert [p.shape for p in many.render()] == [picture.shape] * 2


def test_some_streams_can_be_reset_between_two_frames(name):
    env = gymnasium.make_vec(name, num_envs=3, task=TinyTask())
    env.reset(seed=0)
    nothing = np.zeros(env.action_space.shape, np.int8)
    for _ in range(env.unwrapped.engine.layout.gates):
        env.step(nothing)
    before = env.unwrapped.engine.observations()
    observation, info = env.reset(options={"reset_mask": np.array([False, True, False]), "clip": 0})
    np.testing.assert_allclose(observation[[0, 2]], before[[0, 2]], atol=1e-5)
    assert info["_clip"].tolist() == [False, True, False]
    assert len(env.unwrapped.engine.groups) == 1
    if name == GATE:
        env.step(nothing)
        with pytest.raises(StreamError, match="between two frames"):
            env.reset(options={"reset_mask": np.array([False, True, False])})


WRONG = [
    ({"budget": 0.0}, "budget"),
    ({"budget": (0.5, 0.1)}, "budget"),
    ({"reward": "speed"}, "fidelity, loss, metric"),
    ({"reward": {"wieght": 1}}, "wieght"),
    ({"reward": Reward("loss"), "task": TinyTask(has_labels=False)}, "labels"),
    ({"task": TinyTask(has_labels=False), "score_labels": True}, "labels"),
    ({"task": TinyTask((1, 5))}, "train-0"),
    ({"split": "holdout"}, "holdout"),
    ({"render_mode": "ansi"}, "render_mode"),
    ({"task": "dooom"}, "dooom"),
]


@pytest.mark.parametrize(("kwargs", "match"), WRONG, ids=[str(match) for _, match in WRONG])
def test_wrong_arguments_are_named(kwargs, match):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=match):
            gymnasium.make(FRAME, **({"task": TinyTask()} | kwargs))


def test_wrong_actions_and_options_are_named(name):
    env = gymnasium.make(name, task=TinyTask()).unwrapped
    with pytest.raises(StreamError, match="reset"):
        env.step(np.zeros(17, np.int8))
    for options, match in (({"clips": 1}, "clips"), ({"clip": 9}, "no clip 9"), ({"frame": 5, "clip": 0}, "frame 5")):
        with pytest.raises(ValueError, match=match):
            env.reset(options=options)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="17"):
        env.step(np.zeros(16, np.int8))
    for steps in (0,) if name == FRAME else (0, 7):
        with pytest.raises(ValueError, match="max_episode_steps must be a positive multiple of"):
            gymnasium.make_vec(name, num_envs=2, task=TinyTask(), max_episode_steps=steps)
    many = gymnasium.make_vec(name, num_envs=2, task=TinyTask())
    with pytest.raises(ValueError, match="3 seeds"):
        many.reset(seed=[1, 2, 3])
    with pytest.raises(ValueError, match="reset_mask"):
        many.reset(options={"reset_mask": np.zeros(2, bool)})


def doom(folder):
    pytest.importorskip("vizdoom")
    from envs.doom.detector import build_detector
    from envs.doom.task import DoomDetection

    return DoomDetection(build_detector(dim=48, depth=1, heads=1), sizes={"train": 1}, frames=4, folder=folder)


def distill(folder):
    from envs.distill import Distillation

    return Distillation(TinyTask().model, noise(folder), train_frames="0-7", cache=folder / "cache")


def follow(folder):
    from envs.follow import Follow

    options = {"box": [0, 0, 16, 16], "train_frames": "0-7", "threshold": 0.1}
    return Follow(TinyTask().model, noise(folder), cache=folder / "cache", **options)


def noise(folder):
    (folder / "frames").mkdir()
    for t in range(8):
        image = np.random.default_rng(t).integers(0, 255, (48, 64, 3), np.uint8)
        Image.fromarray(image).save(folder / "frames" / f"{t}.png")
    return folder / "frames"


@pytest.mark.parametrize("shipped", [doom, distill, follow])
def test_gymnasium_finds_no_fault_with_the_shipped_tasks(name, shipped, tmp_path):
    task = shipped(tmp_path)
    reward = "metric" if task.has_labels else "fidelity"
    env = gymnasium.make(name, task=task, reward=reward, render_mode="rgb_array").unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
    env.reset(seed=0)
    for _ in range(env.engine.layout.gates):
        *_, info = env.step(env.action_space.sample())
    assert {"fidelity", "share", "rates"} <= info.keys()
    assert {"loss", "dense_loss"} <= info.keys() or not task.has_labels
