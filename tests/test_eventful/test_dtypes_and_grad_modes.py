"""Types and grad modes that change in mid-stream."""

from __future__ import annotations

import pytest
import torch
from family_zoo import STATEFUL, assert_rows, build, clip, play

import eventful
import policies

each_mode = pytest.mark.parametrize("mode", STATEFUL)


each_name = pytest.mark.parametrize("name", ["ViT", "DINOv3", "ViTDet, pooled keys"])


@each_name
@each_mode
def test_grad_modes_mix(name: str, mode: str) -> None:
    vit, frames = build(name), clip(6)
    model, reference = (eventful.wrap(vit, policies.TopR(6), **STATEFUL[mode]) for _ in range(2))
    expected = play(reference, frames)
    outs = []
    with torch.inference_mode():
        outs += [model(frames[0]), model(frames[1])]
    with torch.no_grad():
        outs.append(model(frames[2]))
    outs.append(model(frames[3]))
    with torch.inference_mode():
        outs.append(model(frames[4]))
    outs.append(model(frames[5]))
    assert_rows([out.detach() for out in outs], expected, [0])


@pytest.mark.parametrize("mode", ["exact", "frame", "recompute"])
def test_masked_training_goes_on_from_packed_inference(mode: str) -> None:
    vit, frames = build("DINOv3"), clip(5)
    model = eventful.wrap(vit, policies.TopR(6), **STATEFUL[mode])
    state = None
    with torch.inference_mode():
        for frame in frames[:3]:
            _, state = model.step(frame, state)
    out, state = model.step(frames[3], state, masked=True)
    out.square().sum().backward()
    assert vit.blocks[0].mlp.fc1.weight.grad is not None
    with torch.inference_mode():
        after, _ = model.step(frames[4], state.detach())
    assert_rows([after], [play(eventful.wrap(vit, policies.TopR(6), **STATEFUL[mode]), frames)[4]], [0])


@each_name
@each_mode
def test_a_model_is_cast_in_mid_stream(name: str, mode: str) -> None:
    vit, frames = build(name), clip(6)
    model = eventful.wrap(vit, policies.Random(0.3), **STATEFUL[mode])
    fp32 = play(eventful.wrap(build(name), policies.Random(0.3), **STATEFUL[mode]), frames)
    play(model, frames[:3])
    model.to(torch.bfloat16)
    outs = play(model, [frame.bfloat16() for frame in frames[3:]])
    assert outs[0].dtype == torch.bfloat16
    for out, expected in zip(outs, fp32[3:], strict=True):
        # Weights, tokens and buffers are rounded to 8 bits; the policy is blind to them.
        assert (out.float() - expected).norm() / expected.norm() < 0.1
    model.to(torch.float32)
    assert play(model, frames[5:])[0].dtype == torch.float32


@each_name
@pytest.mark.parametrize("mode", ["exact", "frame"])
def test_bfloat16_selecting_everything_is_the_model_in_bfloat16(name: str, mode: str) -> None:
    vit, frames = build(name).bfloat16(), [frame.bfloat16() for frame in clip(3)]
    model = eventful.wrap(vit, policies.All(), **STATEFUL[mode])
    with torch.inference_mode():
        for frame in frames:
            out, expected = model(frame).float(), vit(frame).float()
            assert (out - expected).norm() / expected.norm() < 0.03


@pytest.mark.parametrize("mode", ["exact", "frame"])
def test_bfloat16_updates_do_not_drift(mode: str) -> None:
    vit = build("ViT").bfloat16()
    model = eventful.wrap(vit, policies.Random(0.2), **STATEFUL[mode])
    dense = eventful.wrap(vit, policies.Random(0.2), **{**STATEFUL[mode], "attention": "recompute"})
    errors = []
    for frame in clip(120):
        ours, theirs = (play(one, [frame.bfloat16()])[0].float() for one in (model, dense))
        errors.append(float((ours - theirs).norm() / theirs.norm()))
    assert max(errors[-40:]) < 0.03 and max(errors[-40:]) < 2 * max(errors[:40]) + 0.005


@each_mode
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["ViT", "SAM image encoder", "SAM layout with RoPE", "ViTDet, pooled keys"])
def test_autocast_may_begin_and_end_in_mid_stream(name: str, mode: str, dtype: torch.dtype) -> None:
    vit, frames = build(name), clip(6)
    # A policy that is blind to rounding.
    expected = play(eventful.wrap(vit, policies.Random(0.3), **STATEFUL[mode]), frames)
    for covered in (range(6), range(2, 4), range(3)):
        model = eventful.wrap(vit, policies.Random(0.3), **STATEFUL[mode])
        for k, frame in enumerate(frames):
            with torch.autocast("cpu", dtype=dtype, enabled=k in covered), torch.inference_mode():
                out = model(frame)
            assert torch.isfinite(out).all()
            assert (out.float() - expected[k]).norm() / expected[k].norm() < 0.03


@pytest.mark.parametrize("mode", ["exact", "frame", "recompute"])
def test_double_precision(mode: str) -> None:
    vit, frames = build("ViT").double(), [frame.double() for frame in clip(4)]
    model = eventful.wrap(vit, policies.TopR(10**6), **STATEFUL[mode])
    for frame in frames:
        with torch.inference_mode():
            torch.testing.assert_close(model(frame), vit(frame), atol=1e-6, rtol=0)


@each_name
@each_mode
def test_a_model_may_be_in_double_precision_for_a_while(name: str, mode: str) -> None:
    frames = clip(9)
    model = eventful.wrap(build(name), policies.Random(0.3), **STATEFUL[mode])
    expected = play(eventful.wrap(build(name), policies.Random(0.3), **STATEFUL[mode]), frames)
    outs = play(model, frames[:3])
    model.double()
    outs += play(model, [frame.double() for frame in frames[3:6]])
    model.float()
    outs += play(model, frames[6:])
    assert [out.dtype for out in outs[::4]] == [torch.float32, torch.float64, torch.float32]
    assert model.state is not None
    wide = {place for place, x in model.state.named_tensors().items() if x.dtype == torch.float64}
    assert all(place.startswith("macs.") for place in wide), wide
    for out, wanted in zip(outs, expected, strict=True):
        torch.testing.assert_close(out.float(), wanted, atol=1e-3, rtol=1e-3)
