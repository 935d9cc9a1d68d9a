"""A backbone that starts from a plain vision transformer computes what that one does."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from vitdet_tiny import tiny_detector

from envs.doom.detector import ConvEmbed, load_detector
from envs.doom.labels import CLASS_NAMES
from envs.vitdet.canvas import MEAN, STD, Canvas
from envs.vitdet.detector import vitdet_vid
from eventful.errors import UserError
from train.config import load_config
from train.task_config import task_options
from train.train_config import TrainConfig
from train.vitdet.start import PlainStart, start_backbone
from train.vitdet.train import VitdetConfig

ROOT = Path(__file__).parents[2]

THEIRS = PlainStart("", [4, 4], [10.0, 20.0, 30.0], [50.0, 60.0, 70.0])


def plain(**options):
    torch.manual_seed(1)
    sizes = dict(img_size=64, embed_dim=24, depth=2, num_heads=2, num_classes=0, global_pool="")
    return VisionTransformer(**sizes | dict(class_token=False) | options).eval()


def saved(vit, path):
    save_file({name: tensor.contiguous() for name, tensor in vit.state_dict().items()}, path)
    return str(path)


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_features_are_those_of_the_plain_one(tmp_path, stem):
    theirs = plain(**({"embed_layer": ConvEmbed} if stem == "conv" else {}))
    ours = tiny_detector(64, window=4, global_blocks=[0, 1], position_side=4, stem=stem)
    start_backbone(ours, PlainStart(saved(theirs, tmp_path / "a.safetensors"), [4, 4], THEIRS.mean, THEIRS.std))
    pixels = 255 * torch.rand(2, 3, 64, 64)
    as_theirs, as_ours = (
        (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        for mean, std in ((THEIRS.mean, THEIRS.std), (MEAN, STD))
    )
    with torch.no_grad():
        expected = theirs.blocks(theirs._pos_embed(theirs.patch_embed(as_theirs)))
        found = ours.forward_features(as_ours)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected, atol=1e-4, rtol=1e-4)


def test_positions_of_an_oblong_lie_at_the_top_left(tmp_path):
    theirs = plain(img_size=(32, 64))
    nn.init.normal_(theirs.pos_embed)
    ours = tiny_detector(64, position_side=4)
    start_backbone(ours, PlainStart(saved(theirs, tmp_path / "a.safetensors"), [2, 4]))
    table = ours.patch_embed.pos_embed[0]
    torch.testing.assert_close(table[:2].flatten(0, 1), theirs.pos_embed[0])
    assert torch.equal(table[2], table[1]) and torch.equal(table[3], table[1])
    start_backbone(larger := tiny_detector(64, position_side=8), PlainStart(str(tmp_path / "a.safetensors"), [2, 4]))
    assert larger.patch_embed.pos_embed.shape == (1, 8, 8, 24)


def test_positions_of_class_tokens_are_left_out(tmp_path):
    theirs = plain(class_token=True)
    ours = tiny_detector(64, position_side=4)
    start_backbone(ours, PlainStart(saved(theirs, tmp_path / "a.safetensors")))
    torch.testing.assert_close(ours.patch_embed.pos_embed.flatten(1, 2), theirs.pos_embed[:, 1:])


@pytest.mark.parametrize(
    ("options", "grid", "said"),
    [
        ({"embed_dim": 32}, None, r"does not fit the backbone: .* here \("),
        ({"depth": 3}, None, r"blocks\.2\..* here missing"),
        ({}, [5, 4], r"backbone\.grid=\[5, 4\] has more than the 16 positions"),
        ({}, [4], r"backbone\.grid must be rows and columns, got \[4\]"),
        ({"depth": 1}, None, r"has no blocks\.1\."),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, options, grid, said):
    path = saved(plain(**options), tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=said):
        start_backbone(tiny_detector(64, position_side=4), PlainStart(path, grid))


def test_the_config_for_doom_starts_from_the_shipped_detector():
    config = load_config(VitdetConfig, [str(ROOT / "configs/vitdet_doom.yaml"), "root=x"])
    assert tuple(config.classes) == CLASS_NAMES
    vit = vitdet_vid(config.canvas, len(config.classes), config.proposals, None, config.architecture)
    start = dataclasses.replace(config.backbone, weights=str(ROOT / config.backbone.weights))
    start_backbone(vit, start)
    theirs = load_detector()
    pixels = 255 * torch.rand(1, 3, 240, 320)
    with torch.no_grad():
        expected = theirs.patch_embed((pixels / 255 - 0.25) / 0.2)
        found = vit.patch_embed.proj(Canvas(320).lay(pixels)[..., :240, :])
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected, atol=1e-3, rtol=1e-3)
    # In half precision, as it is written.
    assert 2 * sum(weight.numel() for weight in vit.parameters()) < 10e6


def test_the_config_of_its_policy_is_read():
    config = load_config(TrainConfig, [str(ROOT / "configs/vid_doom.yaml"), "task_options.root=x", "weights=y"])
    assert task_options(config) == {"root": "x", "weights": "y"} and config.warm_start == "oracle"
