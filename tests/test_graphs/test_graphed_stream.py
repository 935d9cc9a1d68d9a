"""A stream of fixed work is the model, frame by frame; on CUDA as one graph a frame."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from family_zoo import ZOO, build, clip
from torch import Tensor, nn

import eventful
import policies
from eventful.errors import StreamError, UserError
from eventful.graphs import GraphedStream

FRAME, RECOMPUTE, PAPER = {"granularity": "frame"}, {"attention": "recompute"}, {"attention": "paper"}
WINDOWED = [name for name in ZOO if name.startswith(("SAM", "ViTDet"))]
PAIRS = [(name, RECOMPUTE if name in WINDOWED else FRAME) for name in ZOO] + [("ViT", RECOMPUTE), ("ViT", PAPER)]
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


def some_saliency(outputs: Tensor) -> Tensor:
    return outputs.softmax(-1).amax(-1, keepdim=True)


def learned() -> policies.LearnedPolicy:
    torch.manual_seed(3)
    policy = policies.LearnedPolicy(gates=1, dim=32, granularity="frame", select="top", budget=0.3, saliency=True)
    for weight in policy.parameters():
        nn.init.normal_(weight, std=0.2)
    return policy


def assert_is_the_model(model: eventful.EventfulModel, frames: list[Tensor]) -> GraphedStream:
    stream = GraphedStream(model, frames[0])
    assert stream.captured == (frames[0].device.type == "cuda")
    assert model.state is None, "the model's own streams are left alone"
    found = [stream(frame) for frame in frames]
    with torch.inference_mode():
        expected = [model(frame) for frame in frames]
    # Compared at the end: what a frame returned is not overwritten by the next ones.
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert stream.share == pytest.approx(float(model.macs.share[0]))
    return stream


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "options"), PAIRS, ids=lambda value: value if isinstance(value, str) else str(value))
def test_every_family(name: str, options: dict[str, Any], device: str) -> None:
    model = eventful.wrap(build(name).to(device), policies.TopR(9), **options)
    assert_is_the_model(model, [frame.to(device) for frame in clip(6, streams=2)])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_learned_policy_with_ages_and_saliency(dtype: torch.dtype, device: str) -> None:
    model = eventful.wrap(build("ViT"), learned(), **FRAME, saliency=some_saliency).to(device, dtype)
    frames = [frame.to(device, dtype) for frame in clip(9)]
    stream = GraphedStream(model, frames[0])
    found = [stream(frame) for frame in frames]
    with torch.inference_mode():
        torch.testing.assert_close(found, [model(frame) for frame in frames], atol=1e-4, rtol=1e-4)


def test_a_reset_is_a_flush() -> None:
    frames = clip(6)
    model = eventful.wrap(build("ViT"), policies.TopR(4), **FRAME)
    stream = assert_is_the_model(model, frames)
    stream.reset()
    model.reset()
    for frame in (frames[3], frames[0]):
        torch.testing.assert_close(stream(frame), model(frame), atol=1e-4, rtol=1e-4)


def test_weights_may_be_loaded_later() -> None:
    frames = clip(4)
    model = eventful.wrap(build("ViT"), policies.TopR(4), **FRAME)
    stream = GraphedStream(model, frames[0])
    torch.manual_seed(9)
    model.vit.load_state_dict({name: torch.randn_like(weight) for name, weight in model.vit.state_dict().items()})
    for frame in frames:
        torch.testing.assert_close(stream(frame), model(frame), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_frames_of_inference_mode_and_outside_of_it_follow_each_other() -> None:
    frames = clip(4)
    model = eventful.wrap(build("ViT"), policies.TopR(4), **FRAME)
    stream = GraphedStream(model, frames[0])
    stream(frames[0])
    with torch.inference_mode(False):
        stream(frames[1].clone())
    stream(frames[2])


@pytest.mark.parametrize(
    ("policy", "options", "reason"),
    [
        (policies.Threshold(0.1), PAPER, 'attention="paper" would take rows that only fill up'),
        (policies.Random(0.2), FRAME, "a policy that draws random numbers"),
        (policies.TopR(4), {}, 'attention="exact" computes as many rows'),
        (policies.TopR(4), FRAME | {"scene_cut": 0.5}, "scene_cut decides"),
    ],
    ids=["threshold", "random", "exact", "cut"],
)
def test_what_has_no_fixed_shapes_is_refused(policy: policies.Policy, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=re.escape(reason)):
        GraphedStream(eventful.wrap(build("ViT"), policy, **options), clip(1)[0])


@pytest.mark.parametrize(
    "frame",
    [
        torch.zeros(2, 3, 40, 48),
        torch.zeros(1, 3, 48, 48),
        torch.zeros(1, 3, 40, 48, dtype=torch.float64),
        torch.full((1, 3, 40, 48), torch.nan),
    ],
    ids=["streams", "size", "type", "values"],
)
def test_frames_unlike_the_example_are_refused_and_harm_nothing(frame: Tensor) -> None:
    frames = clip(3)
    model = eventful.wrap(build("ViT"), policies.TopR(4), **FRAME)
    stream = GraphedStream(model, frames[0])
    torch.testing.assert_close(stream(frames[0]), model(frames[0]))
    with pytest.raises(StreamError):
        stream(frame)
    torch.testing.assert_close(stream(frames[1]), model(frames[1]), atol=1e-4, rtol=1e-4)


def test_what_the_page_shows(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[2] / "docs" / "gpu.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    exec(compile(block, str(page), "exec"), {})
    assert re.search(r"a frame takes (9|10)\.\d% of", capsys.readouterr().out)


def test_a_model_that_returns_what_cannot_be_kept_apart_is_refused() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return object()

    model = eventful.wrap(build("ViT"), policies.TopR(4), **FRAME)
    model.vit.head = Odd()
    with pytest.raises(UserError, match="returns a object; needed are tensors"):
        GraphedStream(model, clip(1)[0])
