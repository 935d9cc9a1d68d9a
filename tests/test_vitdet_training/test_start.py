"""A backbone that starts from a plain vision transformer computes what that one does."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from vitdet_tiny import tiny_detector

from envs.doom.detector import ConvEmbed, build_detector
from envs.vitdet.canvas import MEAN, STD
from eventful.errors import UserError
from train.vitdet.start import PlainStart, start_backbone

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


def test_the_shipped_detector_fits_the_small_one_of_the_docs(tmp_path):
    sizes = dict(embed_dim=192, depth=6, heads=3, position_side=20, stem="conv")
    ours = tiny_detector(64, **sizes)
    path = saved(build_detector(), tmp_path / "a.safetensors")
    start_backbone(ours, PlainStart(path, [15, 20]))
    torch.testing.assert_close(ours.blocks[5].mlp.fc1.weight, load_file(path)["blocks.5.mlp.fc1.weight"])
