"""What is stale moves along with the picture, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from panning import PATCH, pan
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import eventful
import policies

GRID = (8, 10)
N = GRID[0] * GRID[1]


def vit(seed: int = 0) -> VisionTransformer:
    torch.manual_seed(seed)
    size = (GRID[0] * PATCH, GRID[1] * PATCH)
    return VisionTransformer(size, PATCH, embed_dim=24, depth=2, num_heads=2, num_classes=5).eval()


def wrapped(policy: policies.Policy | None = None, compensated: bool = True) -> eventful.EventfulModel:
    policy = policy or policies.Nothing()
    return eventful.wrap(vit(), policy, granularity="frame", motion_compensation=compensated)


def play(model: eventful.EventfulModel, frames: list[Tensor], masked: bool = False) -> list[eventful.StreamState]:
    states, state = [], None
    for frame in frames:
        with torch.inference_mode(not masked):
            _, state = model.step_features(frame, None if state is None else state.clone(), masked)
        states.append(state)
    return states


def on_grid(x_BND: Tensor) -> Tensor:
    return x_BND[:, 1:].unflatten(1, GRID)


@pytest.mark.parametrize("step", [(0, PATCH), (PATCH, 0), (-2 * PATCH, PATCH)])
def test_stale_tokens_go_where_their_part_of_the_picture_went(step: tuple[int, int]) -> None:
    before, after = play(wrapped(), pan([step], GRID))
    rows, columns = (pixels // PATCH for pixels in step)
    there = torch.arange(GRID[0]) + rows, torch.arange(GRID[1]) + columns
    source = there[0].clamp(0, GRID[0] - 1)[:, None], there[1].clamp(0, GRID[1] - 1)
    for held, moved in [
        (before.features_BND, after.features_BND),
        (before.blocks[1].attention.k_BNHd, after.blocks[1].attention.k_BNHd),
        (before.blocks[0].attention.v_BNHd, after.blocks[0].attention.v_BNHd),
    ]:
        assert torch.equal(on_grid(moved), on_grid(held)[:, source[0], source[1]])
        assert torch.equal(moved[:, :1], held[:, :1])


def test_where_the_picture_moved_by_whole_tokens_there_is_no_error_left() -> None:
    seen = []

    class Watch(policies.Nothing):
        def select(self, observation):
            seen.append(observation.error_BN[:, 1:].unflatten(1, GRID))
            return super().select(observation)

    frames = pan([(0, PATCH)] * 3, GRID)
    play(wrapped(Watch()), frames)
    for moved, error in enumerate(seen, 1):
        assert error[..., : GRID[1] - moved].max() < 1e-4
        assert error[..., GRID[1] - moved :].min() > 1e-2
    seen.clear()
    play(wrapped(Watch(), compensated=False), frames)
    assert all(error.min() > 1e-2 for error in seen)


def test_between_tokens_is_between_their_values() -> None:
    before, after = play(wrapped(), pan([(0, PATCH // 2)], GRID))
    held, moved, half = on_grid(before.features_BND), on_grid(after.features_BND), -after.motion_B2[0, 1]
    assert abs(half - 0.5) <= 1 / 16
    expected = held[:, :, :-1] * (1 - half) + held[:, :, 1:] * half
    torch.testing.assert_close(moved[:, :, :-1], expected)


def test_ages_move_along() -> None:
    class UpperLeft(policies.Nothing):
        def select(self, observation):
            first = observation.age_BN.new_tensor([1 + GRID[1] + 1], dtype=torch.long)
            return policies.Selection(index_BM=first.expand(observation.streams, -1))

    state = play(wrapped(UpperLeft()), pan([(0, 0), (-PATCH, -PATCH)], GRID))[-1]
    ages = state.ages()[0, 0, 1:].unflatten(0, GRID)
    assert ages[1, 1] == 0 and ages[2, 2] == 1
    assert (ages == 0).sum() == 1 and (ages == 1).sum() == 1


def test_without_motion_everything_is_as_it_was() -> None:
    still = pan([(0, 0)] * 3, GRID)
    flicker = [
        frame + 0.05 * torch.randn(frame.shape, generator=torch.Generator().manual_seed(i))
        for i, frame in enumerate(still)
    ]
    ours, theirs = (play(wrapped(policies.TopR(20), on), flicker) for on in (True, False))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.features_BND, other.features_BND)
        assert torch.equal(one.frame_gate.reference_BND, other.frame_gate.reference_BND)


def test_selecting_everything_gives_the_dense_model() -> None:
    model = wrapped(policies.All())
    for frame in pan([(5, -11), (8, 8), (0, 3)], GRID):
        with torch.inference_mode():
            torch.testing.assert_close(model(frame), model.vit(frame), atol=1e-4, rtol=0)


STEPS = [[(5, -11), (8, 8), (-3, 9), (16, 0)], [(0, 0), (0, 8), (0, 0), (-8, -8)]]


def test_masked_runs_give_the_packed_numbers() -> None:
    frames = [
        torch.cat(both) for both in zip(*[pan(steps, GRID, seed) for seed, steps in enumerate(STEPS)], strict=True)
    ]
    packed, masked = (play(wrapped(policies.TopR(12)), frames, masked) for masked in (False, True))
    for one, other in zip(packed, masked, strict=True):
        torch.testing.assert_close(one.features_BND, other.features_BND, atol=1e-4, rtol=0)
        torch.testing.assert_close(one.macs.total, other.macs.total)


def test_a_batch_gives_the_numbers_of_its_streams() -> None:
    clips = [pan(steps, GRID, seed) for seed, steps in enumerate(STEPS)]
    model = wrapped(policies.TopR(12))
    together = play(model, [torch.cat(both) for both in zip(*clips, strict=True)])
    for stream, clip in enumerate(clips):
        for one, other in zip(play(model, clip), together, strict=True):
            torch.testing.assert_close(one.features_BND[0], other.features_BND[stream], atol=1e-5, rtol=0)
            assert torch.equal(one.motion_B2[0], other.motion_B2[stream])


def test_a_stream_that_is_flushed_starts_afresh_beside_one_that_moves() -> None:
    clips = [pan(steps, GRID, seed) for seed, steps in enumerate(STEPS)]
    model = wrapped(policies.TopR(12))
    with torch.inference_mode():
        for t, both in enumerate(zip(*clips, strict=True)):
            if t == 2:
                model.reset(streams=[0])
            model(torch.cat(both))
        alone = play(model, clips[0][2:])[-1]
    torch.testing.assert_close(model.state.features_BND[0], alone.features_BND[0], atol=1e-5, rtol=0)


def test_gradients_pass_what_has_moved() -> None:
    model, frames = wrapped(), pan([(0, PATCH)], GRID)
    frames[0].requires_grad_()
    _, state = model.step_features(frames[0], None, masked=True)
    features, _ = model.step_features(frames[1], state, masked=True)
    features[:, 1:].sum().backward()
    assert frames[0].grad is not None and frames[0].grad.abs().sum() > 0


def test_its_cost_is_in_the_ledger() -> None:
    first, second = play(wrapped(), pan([(0, PATCH)], GRID))
    values, held = N * 16, (N + 1) * 24 * (2 * 2 + 2)
    assert first.macs.by_operation.get("motion", torch.zeros(1)).item() == 0
    assert second.macs.by_operation["motion"].item() == pytest.approx(
        3 * values * torch.tensor(values).log2().item() + held
    )
    assert second.macs.total.item() >= second.macs.by_operation["motion"].item()


def test_one_decision_a_frame_is_asked_for() -> None:
    with pytest.raises(ValueError, match="granularity"):
        eventful.wrap(vit(), policies.Nothing(), motion_compensation=True)
