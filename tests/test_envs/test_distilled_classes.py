"""The distillation task with a classifier: as many classes as its weights have, and how often the likeliest stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from envs.backbones import load_backbone
from envs.distill import Distillation
from envs.task import has_metric
from eventful.errors import UserError


def test_a_tuned_classifier_has_as_many_classes_as_its_weights(tmp_path: Path) -> None:
    tuned = timm.create_model("test_vit", img_size=64, num_classes=7)
    safetensors.torch.save_file(tuned.state_dict(), tmp_path / "tuned.safetensors")
    model = load_backbone("test_vit", tmp_path / "tuned.safetensors", image_size=(64, 64))
    assert model.get_submodule("head").out_features == 7
    with pytest.raises(UserError, match=r"missing: head\.bias, head\.weight"):
        without = {name: value for name, value in tuned.state_dict().items() if "head" not in name}
        safetensors.torch.save_file(without, tmp_path / "without.safetensors")
        load_backbone("test_vit", tmp_path / "without.safetensors", image_size=(64, 64))


def test_classes_are_scored_by_how_often_the_dense_model_says_the_same() -> None:
    built = Distillation(timm.create_model("test_vit", img_size=64), image_size=[64, 64])
    assert built.targets_from_dense is not None
    dense_BC = torch.eye(3)[[0, 1, 2, 2]]
    metric = built.metric()
    assert metric is not None
    for logits_C, dense_C in zip(torch.eye(3)[[0, 1, 1, 0]], dense_BC, strict=True):
        metric.update("a", logits_C[None], built.targets_from_dense(dense_C[None]))
    assert metric.compute() == 0.5


def test_the_image_tower_of_clip_has_no_classes() -> None:
    for name, says in {"openai": False, "openai_ft_in1k": True}.items():
        config = timm.get_pretrained_cfg(f"vit_base_patch32_clip_224.{name}")
        model = timm.create_model("vit_base_patch32_clip_224", depth=1, pretrained_cfg=config.to_dict())
        assert has_metric(Distillation(model)) == says


@pytest.mark.parametrize("head", ["pixels", "embeddings", None])
def test_what_is_no_class_has_no_such_score(head: str | None) -> None:
    own = {"pixels": lambda x_BND: x_BND.mT.reshape(len(x_BND), -1, 1, x_BND.shape[1]), "embeddings": lambda x: x}
    model = timm.create_model("test_vit", img_size=64, num_classes=0)
    built = Distillation(model, image_size=[64, 64], head=None if head is None else own[head])
    assert not has_metric(built) and built.metric() is None and built.metric_name == "fidelity"
