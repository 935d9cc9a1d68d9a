"""The core of the environments, as a trainer uses it: states, tensors, the dense model's results."""

import pytest
import torch
from tiny_task import TinyTask

from envs.engine import SelectionEngine
from envs.episodes import Start
from envs.observation import LIMIT, gate_features
from eventful.errors import StreamError
from policies import GlobalTopR, LearnedPolicy


def engine_of(granularity, streams=2, **options):
    engine = SelectionEngine(granularity, **({"task": TinyTask()} | options))
    engine.start({b: Start(clip=b % 3, budget=0.1 * (b + 1)) for b in range(streams)})
    return engine


def masks(engine, steps, seed=0, share=0.3):
    random = torch.Generator().manual_seed(seed)
    return [torch.rand(engine.streams, engine.layout.tokens, generator=random) < share for _ in range(steps)]


def rewards(engine, chosen):
    scored = [engine.step(mask_BN) for mask_BN in chosen]
    return [{b: score.reward for b, score in scores.items()} for scores in scored]


@pytest.mark.parametrize("granularity", ["frame", "gate"])
def test_rollouts_from_one_state_are_independent(granularity):
    engine = engine_of(granularity)
    gates = engine.layout.gates
    rewards(engine, masks(engine, gates))
    state, before = engine.get_state(), engine.observations()
    first, second = masks(engine, 2 * gates, seed=1), masks(engine, 2 * gates, seed=2)
    wanted = rewards(engine, first)
    engine.set_state(state)
    assert rewards(engine, second) != wanted
    engine.set_state(state)
    assert (engine.observations() == before).all()
    assert rewards(engine, first) == wanted


@pytest.mark.parametrize("granularity", ["frame", "gate"])
def test_rollouts_side_by_side_are_those_one_by_one(granularity):
    """K rollouts in one batch, from the same two streams."""
    engine = engine_of(granularity)
    gates = engine.layout.gates
    rewards(engine, masks(engine, gates))
    state = engine.get_state()
    apart = []
    chosen = [masks(engine, gates, seed=k) for k in range(3)]
    for k in range(3):
        engine.set_state(state)
        apart.append(rewards(engine, chosen[k])[-1])
    engine.set_state(state.select([0, 1] * 3))
    assert engine.streams == 6
    together = rewards(engine, [torch.cat([chosen[k][g] for k in range(3)]) for g in range(gates)])[-1]
    for k in range(3):
        for b in range(2):
            assert together[2 * k + b] == pytest.approx(apart[k][b], abs=1e-5)


def test_what_is_copied_stays():
    engine = engine_of("gate")
    kept = engine.observe(copy=True)
    before = kept.reference_BND.clone()
    engine.step(torch.ones(2, 17, dtype=torch.bool))
    torch.testing.assert_close(kept.reference_BND, before, rtol=0, atol=0)


def test_a_cleared_engine_begins_anew():
    engine = engine_of("frame")
    rewards(engine, masks(engine, 2))
    engine.clear()
    with pytest.raises(StreamError, match="no stream"):
        engine.step(torch.zeros(0, 17, dtype=torch.bool))
    engine.start({0: Start(0, 0.1)})
    assert engine.streams == 1 and engine.where(0)["frame"] == 1


def test_a_state_is_taken_between_two_frames_only():
    engine = engine_of("gate")
    rewards(engine, masks(engine, 1))
    with pytest.raises(StreamError, match="first gate"):
        engine.get_state()


def test_the_dense_model_computes_a_frame_once():
    engine = engine_of("frame")
    state = engine.get_state()
    for seed in range(3):
        engine.set_state(state)
        rewards(engine, masks(engine, 3, seed=seed))
    assert engine.dense_frames == 6
    engine.set_state(state.select([0, 0, 0, 1]))
    rewards(engine, masks(engine, 3))
    assert engine.dense_frames == 6
    with pytest.raises(ValueError, match="cache_mb must be at least 0"):
        engine_of("frame", cache_mb=-1)
    small = engine_of("frame", cache_mb=0)
    state = small.get_state()
    wanted = rewards(small, masks(small, 3))
    small.set_state(state)
    for again, first in zip(rewards(small, masks(small, 3)), wanted, strict=True):
        assert again == pytest.approx(first)
    assert small.dense_frames == 12


@pytest.mark.parametrize("granularity", ["frame", "gate"])
def test_a_learned_policy_gets_gradients_from_what_it_saw(granularity):
    """Scores of several steps in one graph, although the buffers are edited in between."""
    engine = engine_of(granularity)
    policy = LearnedPolicy(engine.layout.gates, engine.layout.dim, granularity=granularity)
    torch.nn.init.normal_(policy.out.weight)
    total = torch.zeros(())
    for mask_BN in masks(engine, 2 * engine.layout.gates):
        score_BN = policy.score(engine.observe(), engine.budget_B)
        total = total + torch.where(mask_BN, score_BN, -score_BN).sum()
        engine.step(mask_BN)
    total.backward()
    assert policy.hidden.weight.grad.abs().sum() > 0
    assert policy.projection is None or policy.projection.weight.grad.abs().sum() > 0


def test_the_macs_of_a_policy_can_be_counted():
    policy = LearnedPolicy(1, 32, granularity="frame")
    with_policy, without = engine_of("frame", policy=policy), engine_of("frame")
    chosen = masks(without, 1)
    dear, cheap = with_policy.step(chosen[0])[0], without.step(chosen[0])[0]
    assert dear.macs["policy"] == policy.macs(with_policy.layout)
    assert dear.share > cheap.share


def test_a_policy_keeps_its_notes_when_another_stream_leaves():
    engine = engine_of("gate", task=TinyTask((3, 8)))
    policy = GlobalTopR(6)
    for _ in range(2 * engine.layout.gates):
        engine.step(policy.select(engine.observe()).as_mask(17))
    notes = {k: v[1:].clone() for k, v in engine.observe().memory.items()}
    assert notes and engine.slots[0].over and not engine.slots[1].over
    engine.step(torch.ones(2, 17, dtype=torch.bool), {0: Start(0, 0.1)})
    assert sorted(group.streams for group in engine.groups) == [[0], [1]]
    stayed = next(group for group in engine.groups if group.streams == [1])
    for key, value in notes.items():
        torch.testing.assert_close(stayed.observe().memory[key], value)
    with pytest.raises(StreamError, match="2 different gates"):
        engine.observe()


@pytest.mark.parametrize("granularity", ["frame", "gate"])
def test_features_are_bounded_and_of_order_one(granularity):
    engine = engine_of(granularity)
    seen = []
    for mask_BN in masks(engine, 3 * engine.layout.gates):
        seen.append(gate_features(engine.observe(), engine.budget_B))
        engine.step(mask_BN)
    features = torch.stack(seen)
    assert features.shape[-1] == len(engine.features)
    assert features.abs().max() < LIMIT
    assert features.abs().mean() < 2
    still_BN = torch.stack([x[..., 0] for x in seen])
    assert still_BN.min() >= -2


def test_errors_count_relative_to_the_tokens():
    """The same picture in other units looks the same."""
    engine = engine_of("frame")
    observation = engine.observe(copy=True)
    plain = gate_features(observation, engine.budget_B)
    observation.input_BND.mul_(50)
    observation.reference_BND.mul_(50)
    del observation.__dict__["error_BN"]
    torch.testing.assert_close(gate_features(observation, engine.budget_B), plain, atol=1e-4, rtol=1e-4)
