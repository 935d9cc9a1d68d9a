"""Vision towers of `transformers`: eventful, they return what the original returns, in its own output class."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from family_zoo import clip
from torch import Tensor, nn
from tower_zoo import BASE, REFUSED, SIZE, TOWERS, build_tower

import eventful
import policies

NAMES = list(TOWERS)


def frames(count: int, streams: int = 2) -> list[Tensor]:
    return clip(count, streams, size=SIZE)


def assert_same(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs) and list(ours) == list(theirs)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"attention": "paper"}, {"granularity": "frame"}], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_all_tokens_are_the_original(name: str, options: dict[str, Any]) -> None:
    vit = build_tower(name)
    model = eventful.wrap(vit, policies.All(), **options)
    with torch.inference_mode():
        for frame in frames(3):
            assert_same(model(frame), vit(frame))
            assert_same(model(pixel_values=frame), vit(pixel_values=frame))


@pytest.mark.parametrize("name", NAMES)
def test_exact_is_recompute_and_masked_is_packed(name: str) -> None:
    vit = build_tower(name)
    ways = ("exact", "recompute", "exact")
    exact, again, trained = (eventful.wrap(vit, policies.Random(0.2), attention=how) for how in ways)  # type: ignore[arg-type]
    state = None
    with torch.inference_mode():
        for frame in frames(5):
            outputs = exact(frame)
            masked, state = trained.step(frame, state, masked=True)
            assert_same(again(frame), outputs)
            assert_same(masked, outputs)
    assert float(exact.macs.share.max()) < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_hidden_states_are_given_when_asked(name: str) -> None:
    vit = build_tower(name)
    model = eventful.wrap(vit, policies.All())
    with torch.inference_mode(), warnings.catch_warnings():
        # The dense model has listed its hidden states by hooks of its own: nobody is to be warned of these.
        warnings.simplefilter("error")
        for frame in frames(2):
            assert_same(model(frame, output_hidden_states=True), vit(frame, output_hidden_states=True))
        model.reset()
        for frame in frames(2):
            ours, theirs = (m(frame, return_dict=False, output_hidden_states=True) for m in (model, vit))
            assert isinstance(ours, tuple)
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        assert model(frame).hidden_states is None


def test_hidden_states_are_those_of_the_tokens_that_were_updated() -> None:
    model = eventful.wrap(build_tower("DINOv2"), policies.TopR(6))
    with torch.inference_mode():
        for frame in frames(4):
            outputs = model(frame, output_hidden_states=True)
            last = model.vit.layernorm(outputs.hidden_states[-1])
            torch.testing.assert_close(last, outputs.last_hidden_state, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_still_picture_costs_its_gates_alone(name: str) -> None:
    model, frame = eventful.wrap(build_tower(name), policies.Threshold(1e-3)), frames(1)[0]
    with torch.inference_mode():
        first = model(frame)
        assert_same(model(frame), first)
    spent = {kind for kind, macs in model.macs.by_operation.items() if float(macs.sum())}
    assert spent - {"head"} == {"embed", "gates"}
    layers = len(model.backbone.layers)
    tokens = model.layout(frame).tokens
    assert model.macs.total.tolist() == [3.0 * layers * tokens * BASE["hidden_size"]] * 2


@pytest.mark.parametrize("name", ["DINOv2 with registers", "DINOv3", "YOLOS, positions in all layers"])
def test_frames_of_another_size(name: str) -> None:
    vit = build_tower(name)
    model = eventful.wrap(vit, policies.All(), on_resize="flush")
    with torch.inference_mode():
        for size in ((40, 64), (48, 48), (50, 30)):
            for frame in clip(2, size=size):
                assert_same(model(frame), vit(frame))


def test_a_size_that_the_configuration_does_not_have() -> None:
    model = eventful.wrap(build_tower("CLIP tower"), policies.All())
    with pytest.raises(eventful.StreamError, match="takes frames of 48x48, this one is 40x48"):
        model(torch.zeros(1, 3, 40, 48))


@pytest.mark.parametrize("how", ["eager", "sdpa"])
def test_the_models_own_way_to_attend_makes_no_difference(how: str) -> None:
    vit: Any = build_tower("ViT")
    vit.set_attn_implementation(how)
    frame = frames(1)[0]
    with torch.inference_mode():
        assert_same(eventful.wrap(vit, policies.All())(frame), vit(frame))


@pytest.mark.parametrize("name", ["DINOv3", "YOLOS, positions in all layers"])
def test_copies_go_on_by_themselves(name: str) -> None:
    model = eventful.wrap(build_tower(name), policies.Random(0.3))
    first, second = frames(2)
    with torch.inference_mode():
        model(first)
        others = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        expected = model(second)
        for other in others:
            assert_same(other(second), expected)


def test_weights_are_looked_up_when_they_are_used() -> None:
    vit: Any = build_tower("YOLOS, positions in all layers")
    model, frame = eventful.wrap(vit, policies.All()), frames(1)[0]
    with torch.no_grad():
        model(frame)
        vit.vit.encoder.interpolation.mid_position_embeddings.mul_(2)
        vit.vit.encoder.layer[1].attention.attention.key = nn.Linear(32, 32)
        vit.bbox_predictor.layers[0].weight.mul_(2)
        assert_same(model(frame), vit(frame))


@pytest.mark.parametrize("asked", [
    {"output_attentions": True}, {"interpolate_pos_encoding": True}, {"bool_masked_pos": torch.ones(2, 36).bool()},
    {"attention_mask": torch.ones(2, 37)}, {"output_hidden_states": [1]}, {"head_mask": torch.ones(2)},
], ids=lambda asked: next(iter(asked)))  # fmt: skip
def test_what_cannot_be_answered_is_refused(asked: dict[str, Any]) -> None:
    model, frame = eventful.wrap(build_tower("ViT"), policies.All()), frames(1)[0]
    with pytest.raises(eventful.UnsupportedModel, match=next(iter(asked))):
        model(frame, **asked)
    with torch.inference_mode():
        assert model(frame, output_attentions=False, bool_masked_pos=None).last_hidden_state.shape == (2, 37, 32)


def test_hidden_states_with_one_decision_a_frame_are_refused() -> None:
    model = eventful.wrap(build_tower("ViT"), policies.All(), granularity="frame")
    with pytest.raises(eventful.UnsupportedModel, match="granularity 'gate'"):
        model(frames(1)[0], output_hidden_states=True)


def test_one_frame_is_given_once() -> None:
    model, frame = eventful.wrap(build_tower("ViT"), policies.All()), frames(1)[0]
    with pytest.raises(TypeError, match="one frame is needed"):
        model()
    with pytest.raises(TypeError, match="one frame is needed"):
        model(frame, pixel_values=frame)


@pytest.mark.parametrize("what", REFUSED)
def test_models_that_are_not_supported_are_named(what: str) -> None:
    make, named = REFUSED[what]
    with pytest.raises(eventful.UnsupportedModel, match=named):
        eventful.wrap(make(), policies.All())


def test_parts_that_do_something_else_are_named() -> None:
    vit: Any = build_tower("ViT")
    vit.layers[1].attention = nn.Identity()
    with pytest.raises(eventful.UnsupportedModel, match=r"layers\.1\.attention: Identity is not .* ViTAttention"):
        eventful.wrap(vit, policies.All())
    moved: Any = build_tower("ViT")
    moved.layers[0].forward = moved.layers[0].forward
    with pytest.raises(eventful.UnsupportedModel, match=r"layers\.0: its forward was replaced"):
        eventful.wrap(moved, policies.All())


def test_hooks_on_layers_are_called_and_others_are_warned_of() -> None:
    vit: Any = build_tower("SigLIP, classes")
    seen: list[Tensor] = []
    vit.vision_model.encoder.layers[0].register_forward_hook(lambda *a: seen.append(a[2]))
    vit.vision_model.encoder.register_forward_hook(lambda *a: None)
    model, frame = eventful.wrap(vit, policies.All()), frames(1)[0]
    with torch.inference_mode(), pytest.warns(UserWarning, match=r"hooks on vision_model\.encoder are not called"):
        model(frame)
    assert [tuple(tokens.shape) for tokens in seen] == [(2, 36, 32)]


def test_labels_give_the_loss_of_the_original() -> None:
    vit, frame = build_tower("ViT, classes"), frames(1)[0]
    labels = torch.tensor([1, 3])
    with torch.inference_mode():
        assert_same(eventful.wrap(vit, policies.All())(frame, labels=labels), vit(frame, labels=labels))
