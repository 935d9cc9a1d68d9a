"""Models of two towers: the one that sees is eventful, the other is asked as before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from family_zoo import clip
from tower_zoo import SIZE, TWO_TOWERS, build_tower

import eventful
import policies

NAMES = list(TWO_TOWERS)
TEXTS = torch.tensor([[3, 9, 4, 1], [5, 6, 7, 1], [8, 9, 10, 1]])


@pytest.mark.parametrize("name", NAMES)
def test_image_features_are_the_original(name: str) -> None:
    vit: Any = build_tower(name)
    model = eventful.wrap(vit, policies.All())
    with torch.inference_mode():
        for frame in clip(3, 2, size=SIZE):
            expected = vit.get_image_features(frame)
            for ours in (model(frame), model.get_image_features(frame), model.get_image_features(pixel_values=frame)):
                assert type(ours) is type(expected) and list(ours) == list(expected)
                torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model.get_text_features(TEXTS), vit.get_text_features(TEXTS))


@pytest.mark.parametrize("name", NAMES)
def test_with_text_the_whole_model_answers(name: str) -> None:
    vit: Any = build_tower(name)
    model = eventful.wrap(vit, policies.All())
    with torch.inference_mode():
        for frame in clip(2, 2, size=SIZE):
            asked = {"pixel_values": frame, "input_ids": TEXTS, "attention_mask": torch.ones_like(TEXTS)}
            ours, theirs = model(**asked), vit(**asked)
            assert type(ours) is type(theirs)
            torch.testing.assert_close(ours.logits_per_image, theirs.logits_per_image, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(ours.vision_model_output, theirs.vision_model_output, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_one_tower_by_itself_shares_its_weights(name: str) -> None:
    vit: Any = build_tower(name)
    whole, tower = eventful.wrap(vit, policies.Random(0.3)), eventful.wrap(vit.vision_model, policies.Random(0.3))
    with torch.inference_mode():
        for frame in clip(4, 2, size=SIZE):
            features = whole.get_image_features(frame)
            torch.testing.assert_close(tower(frame).last_hidden_state, features.last_hidden_state)
    assert whole.macs.total.tolist() == tower.macs.total.tolist()


def test_hidden_states_beside_text_are_refused() -> None:
    model, frame = eventful.wrap(build_tower(NAMES[0]), policies.All()), clip(1, size=SIZE)[0]
    with pytest.raises(eventful.UnsupportedModel, match="for one tower"):
        model(frame, input_ids=TEXTS, output_hidden_states=True)


def test_a_model_without_image_features_says_so() -> None:
    model = eventful.wrap(build_tower("ViT"), policies.All())
    with pytest.raises(AttributeError, match="ViTModel has no get_image_features"):
        model.get_image_features(clip(1, size=SIZE)[0])
