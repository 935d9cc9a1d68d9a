"""Models of `transformers` in tasks: loaded from folders, with their processors, trained on, with heads of the user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers as hf
from footage import write_video
from torch import Tensor
from tower_zoo import SIZE, build_tower

import eventful
import policies
from envs.backbones import load_backbone
from envs.distill import Distillation
from eventful.errors import UserError
from train.config import load_config
from train.evaluate import evaluate
from train.evaluate_config import EvaluateConfig
from train.policy import train
from train.train_config import TrainConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("DINOv2, classes", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", 40)


def saved(name: str, path: Path) -> Path:
    model: Any = build_tower(name)
    model.save_pretrained(path)
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "resample": 2}
    hf.ViTImageProcessor(size={"height": 48, "width": 48}, **settings).save_pretrained(path)
    return path


def first_two(tokens_BND: Tensor) -> Tensor:
    """A head of the user's."""
    return tokens_BND[:, 1:, :2]


def test_frames_are_what_the_image_processor_makes_of_them(folder: Path, tmp_path: Path) -> None:
    task = Distillation("hf:tiny", weights=folder, cache=tmp_path)
    frames_BHWC = torch.randint(0, 256, (2, 48, 48, 3), dtype=torch.uint8)
    processor = hf.AutoImageProcessor.from_pretrained(folder)
    theirs = processor(list(frames_BHWC.permute(0, 3, 1, 2)), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(task.preprocess(frames_BHWC), theirs, atol=1e-5, rtol=1e-5)


def test_a_folder_is_the_model_that_was_saved(folder: Path) -> None:
    frame, expected = torch.randn(2, 3, 48, 48), build_tower("DINOv2, classes")
    model: Any = load_backbone("hf:tiny", folder)
    with torch.inference_mode():
        dense = expected(frame).logits
        torch.testing.assert_close(eventful.wrap(model, policies.All())(frame), dense, atol=1e-4, rtol=1e-4)
        features = model.forward_features(frame)
        torch.testing.assert_close(model.forward_head(features), dense, atol=1e-4, rtol=1e-4)
    assert (model.num_classes, model.num_prefix_tokens) == (5, 1)


def test_a_model_that_is_given_stays_as_it_is(tmp_path: Path) -> None:
    model = build_tower("CLIP, both towers")
    task = Distillation(model, cache=tmp_path)
    assert task.model is not model and not hasattr(model, "forward_head")
    assert next(task.model.parameters()) is next(model.parameters())


def test_what_is_missing_is_said_in_one_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        load_backbone("hf:tiny", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"has no config\.json"):
        load_backbone("hf:tiny", tmp_path)
    with pytest.raises(UserError, match="num_classes cannot be set"):
        load_backbone("hf:tiny", folder, num_classes=3)
    with pytest.raises(UserError, match="takes frames of 48x48, this one is 48x56"):
        load_backbone("hf:tiny", saved("ViT", tmp_path / "vit"), image_size=[48, 56])
    with pytest.raises(UserError, match="OWNER/NAME of the hub is needed"):
        load_backbone(f"hf:{folder}")

    def offline(*_: Any, **__: Any) -> str:
        raise OSError("no network\nand more lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(UserError, match=r"hf:no/such cannot be had from the hub \(no network") as caught:
        load_backbone("hf:no/such")
    assert "\n" not in str(caught.value)


def test_incomplete_weights_are_refused(tmp_path: Path) -> None:
    model: Any = build_tower("ViT")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(UserError, match=r"lacks weights of ViTModel: layers\.2\."):
        load_backbone("hf:tiny", tmp_path)


def test_a_folder_without_a_processor_is_told_of(tmp_path: Path) -> None:
    model: Any = build_tower("ViT")
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="ImageNet's mean and deviation"):
        loaded: Any = load_backbone("hf:tiny", tmp_path)
    assert loaded.pretrained_cfg["input_size"] == (3, *SIZE)


@pytest.mark.parametrize("name", ["CLIP tower", "ViT, classes"])
def test_damage_is_what_the_users_head_sees(name: str, tmp_path: Path) -> None:
    task = Distillation(build_tower(name), head=first_two, cache=tmp_path)
    model, frame = eventful.wrap(task.model, policies.All()), torch.randn(1, 3, 48, 48)
    distance = task.output_distance
    assert distance is not None
    with torch.inference_mode():
        outputs, features = model(frame), model.forward_features(frame)
    assert torch.equal(outputs, first_two(features))
    changed = features.clone()
    changed[:, 5, 2:] += 1  # where the head does not look
    assert float(distance(first_two(changed), outputs).abs().max()) < 1e-6
    changed[:, 5, :2] *= -1
    distance_BN = distance(first_two(changed), outputs)
    assert distance_BN.shape == (1, 36) and distance_BN[0].argmax() == 4


def test_a_policy_is_trained_and_evaluated(folder: Path, video: Path, tmp_path: Path) -> None:
    options = ["task=distill", f"video={video}", "model=hf:tiny", f"weights={folder}", "clip_length=8",
               f"task_options.cache={tmp_path / 'cache'}", f"out={tmp_path / 'run'}"]  # fmt: skip
    small = ["steps=3", "window=2", "streams=2", "segment=3", "calibration_streams=2", "calibration_frames=6",
             "policy_budgets=[0.2,0.6]", "lr=0.05", "granularity=gate", "warm_start=none"]  # fmt: skip
    trained = policies.load(train(load_config(TrainConfig, [*options, *small])))
    start = policies.load(tmp_path / "run" / "heuristic")
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), start.parameters(), strict=True))
    given = [f"policy={tmp_path / 'run' / 'policy'}", f"out={tmp_path / 'evaluation'}", "policies=[Learned,TopR]",
             "max_clips=1", "max_frames=4"]  # fmt: skip
    evaluate(load_config(EvaluateConfig, given))
    assert (tmp_path / "evaluation" / "table.md").is_file()
