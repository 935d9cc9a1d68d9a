"""What runs is what the wrapped model holds now: copies, replaced, pruned and hooked layers."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import timm
import torch
from family_zoo import build, clip
from torch import Tensor, nn
from torch.nn.utils import prune

import eventful
import policies
from eventful.errors import StreamError

GRANULARITIES = ("gate", "frame")


def vit(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model("test_vit", img_size=64).eval()


def run(model: nn.Module, frames: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.stack([model(frame) for frame in frames])


@pytest.fixture
def frames() -> list[Tensor]:
    return clip(4, size=(64, 64))


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_copy_goes_on_with_its_own_weights_and_state(granularity: str, frames: list[Tensor]) -> None:
    model = eventful.wrap(vit(), policies.TopR(3), granularity=granularity)
    run(model, frames[:2])
    twin = copy.deepcopy(model)
    expected = run(model, frames[2:])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    torch.testing.assert_close(run(twin, frames[2:]), expected, rtol=0, atol=0)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_saved_whole_model_gives_the_same(granularity: str, frames: list[Tensor]) -> None:
    model = eventful.wrap(vit(), policies.TopR(3), granularity=granularity)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    torch.testing.assert_close(run(again, frames), run(model, frames), rtol=0, atol=0)


def _replace(model: nn.Module, what: str) -> None:
    other = vit(5)
    for block, new in zip(model.blocks, other.blocks, strict=True):
        if what == "attention":
            block.attn = new.attn
        elif what == "fc1":
            block.mlp.fc1 = new.mlp.fc1
        elif what == "norm1":
            block.norm1 = new.norm1
    if what == "blocks":
        model.blocks = other.blocks
    if what == "one block":
        model.blocks[1] = other.blocks[1]
    if what == "fewer blocks":
        model.blocks = model.blocks[:2]
    if what == "pruned weights":
        prune.l1_unstructured(model.blocks[0].attn.qkv, "weight", amount=0.5)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("what", ["attention", "fc1", "norm1", "blocks", "one block", "fewer blocks", "pruned weights"])
def test_replaced_layers_run(granularity: str, what: str, frames: list[Tensor]) -> None:
    dense = vit()
    model = eventful.wrap(dense, policies.All(), granularity=granularity)
    run(model, frames[:2])
    _replace(dense, what)
    torch.testing.assert_close(run(model, frames[2:]), run(dense, frames[2:]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_replaced_blocks_flush_the_streams(granularity: str, frames: list[Tensor]) -> None:
    dense = vit()
    model = eventful.wrap(dense, policies.Nothing(), granularity=granularity)
    out, state = model.step(frames[0], None)
    dense.blocks[0] = vit(5).blocks[0]
    out, state = model.step(frames[1], state)
    torch.testing.assert_close(out, run(dense, [frames[1]])[0], rtol=0, atol=1e-4)
    assert state.flushed_B is not None and bool(state.flushed_B.all())


def test_macs_follow_the_layers_at_the_next_flush(frames: list[Tensor]) -> None:
    dense = vit()
    model = eventful.wrap(dense, policies.All())
    run(model, frames[:1])
    before = float(model.macs.dense_B[0])
    for block in dense.blocks:
        block.mlp.fc1 = nn.Linear(block.mlp.fc1.in_features, 8)
        block.mlp.fc2 = nn.Linear(8, block.mlp.fc2.out_features)
    model.reset()
    run(model, frames[:1])
    assert float(model.macs.dense_B[0]) == float(eventful.wrap(dense, policies.All()).layout(frames[0]).dense) < before


def test_replaced_by_something_unsupported(frames: list[Tensor]) -> None:
    dense = vit()
    model = eventful.wrap(dense, policies.All())
    dense.blocks[1].attn = nn.Identity()
    with pytest.raises(eventful.UnsupportedModel, match=r"blocks\.1\.attn: Identity"):
        run(model, frames[:1])


def test_states_of_two_structures_do_not_join(frames: list[Tensor]) -> None:
    dense = vit()
    model = eventful.wrap(dense, policies.All())
    _, before = model.step(frames[0], None)
    dense.blocks[0] = vit(5).blocks[0]
    _, after = model.step(frames[0], None)
    with pytest.raises(ValueError, match="replaced"):
        eventful.StreamState.cat([before, after])


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("family", ["ViT", "EVA-02, fused, inner norm", "SAM image encoder"])
def test_hooks_on_blocks_are_called(granularity: str, family: str) -> None:
    dense, frames = build(family), clip(3)
    for block in dense.blocks:
        block.register_forward_pre_hook(lambda module, inputs: (0.9 * inputs[0],))
        block.register_forward_hook(lambda module, inputs, output: output + 0.1 * inputs[0])
        block.register_forward_hook(lambda module, inputs, options, output: 0.9 * output, with_kwargs=True)
    model = eventful.wrap(dense, policies.All(), granularity=granularity)
    torch.testing.assert_close(run(model, frames), run(dense, frames), rtol=0, atol=1e-4)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_what_hooks_keep_is_not_edited(granularity: str, frames: list[Tensor]) -> None:
    dense, kept, copies = vit(), [], []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kept.extend([inputs[0], output])
        copies.extend([inputs[0].clone(), output.clone()])

    for block in dense.blocks:
        block.register_forward_hook(keep)
    run(eventful.wrap(dense, policies.TopR(3), granularity=granularity), frames)
    assert len(kept) == 2 * len(frames) * len(dense.blocks)
    assert all(bool((a == b).all()) for a, b in zip(kept, copies, strict=True))


@pytest.mark.parametrize("where", ["", "blocks", "blocks.1.attn"])
def test_hooks_that_cannot_be_called_are_named(where: str, frames: list[Tensor]) -> None:
    dense = vit()
    dense.get_submodule(where).register_forward_hook(lambda *_: None)
    model = eventful.wrap(dense, policies.All())
    with pytest.warns(UserWarning, match=f"hooks on {where or 'the model itself'} are not called"):
        run(model, frames[:1])


def test_no_warning_without_hooks(frames: list[Tensor]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(eventful.wrap(vit(), policies.All()), frames[:2])


@pytest.mark.parametrize("attach", ["wrap", "set"])
def test_policy_that_does_not_fit_is_refused_when_attached(attach: str) -> None:
    other = policies.LearnedPolicy(gates=1, dim=7)
    with pytest.raises(policies.PolicyMismatch, match="width 7"):
        if attach == "wrap":
            eventful.wrap(vit(), other, granularity="frame")
        else:
            eventful.wrap(vit(), policies.All(), granularity="frame").policy = other


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("budget", 0.3, "set model.policy.budget"),
        ("options", None, "options of a wrapped model cannot be changed: wrap the model again"),
        ("granularity", "frame", "granularity of a wrapped model cannot be changed"),
        ("scene_cut", 0.1, "scene_cut of a wrapped model cannot be changed"),
    ],
)
def test_settings_that_nobody_would_read_are_refused(name: str, value: object, said: str) -> None:
    model = eventful.wrap(vit(), policies.TopR(3))
    with pytest.raises(AttributeError, match=said):
        setattr(model, name, value)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_shallow_copy_has_streams_of_its_own(granularity: str, frames: list[Tensor]) -> None:
    model = eventful.wrap(vit(), policies.TopR(3), granularity=granularity)
    run(model, frames[:2])
    twin, expected = copy.copy(model), run(copy.deepcopy(model), frames[2:])
    torch.testing.assert_close(run(twin, frames[2:]), expected, rtol=0, atol=0)
    torch.testing.assert_close(run(model, frames[2:]), expected, rtol=0, atol=0)
    assert twin.vit is model.vit and twin.policy is model.policy


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_loading_weights_makes_the_next_frame_a_flush(granularity: str, frames: list[Tensor]) -> None:
    model = eventful.wrap(vit(), policies.TopR(3), granularity=granularity)
    run(model, frames[:2])
    other = vit(5)
    model.load_state_dict({f"vit.{name}": value for name, value in other.state_dict().items()})
    expected = run(other, frames[2:3])[0]
    torch.testing.assert_close(run(model, frames[2:3])[0], expected, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        _, state = model.step(frames[1], None)
        model.load_state_dict(model.state_dict())
        out, _ = model.step(frames[2], state)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_model_in_training_mode_is_refused(granularity: str, frames: list[Tensor]) -> None:
    shared = timm.create_model("test_vit", img_size=64, drop_rate=0.5)
    model = eventful.wrap(shared, policies.TopR(3), granularity=granularity)
    run(model, frames[:2])
    shared.train()
    with pytest.raises(StreamError, match=r"training mode, in which dropout would look like motion: call its eval\(\)"):
        model(frames[2])
    shared.eval()
    assert torch.isfinite(run(model, frames[2:])).all()
