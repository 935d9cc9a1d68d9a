"""The wrapper as a timm model: it answers as the wrapped model does, or says that it cannot."""

import copy
import pickle

import pytest
import timm.data
import torch
from family_zoo import build, clip

import eventful
import policies
from eventful.families.timm_interface import ANSWERED_BY_THE_MODEL


@pytest.mark.parametrize("name", ["ViT", "DINOv3"])
def test_it_answers_as_the_model_does(name: str) -> None:
    vit = build(name)
    model = eventful.wrap(vit, policies.TopR(4))
    assert timm.data.resolve_model_data_config(model) == timm.data.resolve_model_data_config(vit)
    for attribute in ANSWERED_BY_THE_MODEL:
        assert hasattr(model, attribute) == hasattr(vit, attribute), attribute
    assert (model.num_classes, model.num_features) == (vit.num_classes, vit.num_features)
    assert model.get_classifier() is vit.get_classifier()
    with torch.inference_mode():
        features = model.forward_features(clip(1)[0])
        assert torch.equal(model.forward_head(features), vit.forward_head(features))


def test_a_classifier_that_was_reset_is_what_runs() -> None:
    vit, frame = build("ViT"), clip(1)[0]
    model = eventful.wrap(vit, policies.TopR(4))
    model.reset_classifier(3)
    with torch.inference_mode():
        assert model(frame).shape[-1] == 3 and model.num_classes == 3


def test_what_it_cannot_answer_it_says() -> None:
    model = eventful.wrap(build("ViT"), policies.TopR(4))
    with pytest.raises(eventful.UnsupportedModel, match=r"model\.vit\.forward_intermediates computes them densely"):
        model.forward_intermediates(clip(1)[0])
    with pytest.raises(AttributeError, match="no_such_thing"):
        model.no_such_thing  # noqa: B018


def test_copies_answer_too() -> None:
    model = eventful.wrap(build("ViT"), policies.TopR(4))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.num_features == model.num_features
