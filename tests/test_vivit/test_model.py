"""The factorised ViViT as a module: tubelets, batches of videos, its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden_vivit import golden_frames
from safetensors.torch import save_file

import eventful
import policies
from envs.vivit import ViewPlan, ViViT, encode, video_probabilities
from envs.vivit.model import tubelets
from envs.vivit.views import views
from envs.vivit.weights import load_vivit, save_vivit
from eventful.errors import UserError


def test_the_embedding_is_a_convolution_over_space_and_time(small_vivit: ViViT) -> None:
    embed = small_vivit.spatial.patch_embed.proj
    conv = torch.nn.Conv3d(3, 48, (2, 16, 16), stride=(2, 16, 16))
    conv.weight.data, conv.bias.data = embed.weight.data.unflatten(1, (3, 2)), embed.bias.data
    x = torch.randn(2, 8, 3, 64, 64)
    with torch.no_grad():
        ours = torch.stack([embed(step) for step in tubelets(x)], 2)
        torch.testing.assert_close(ours, conv(x.transpose(1, 2)), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_policy_that_selects_all_gives_the_dense_logits(small_vivit: ViViT) -> None:
    x = views(golden_frames(20, 64, 80), ViewPlan(64, stride=1, frames=8, starts=2))
    for attention in ("exact", "paper", "recompute"):
        model = eventful.wrap(small_vivit.spatial, policies.All(), attention=attention, prefix="ordinary")
        for _ in range(2):  # the second time from the state that the first has left
            encoded = encode(model, tubelets(x))
        torch.testing.assert_close(small_vivit.temporal(encoded.tokens_VSD), small_vivit(x), atol=1e-4, rtol=0)
        assert len(encoded.macs) == 4


@torch.no_grad()
def test_views_are_streams(small_vivit: ViViT) -> None:
    x = views(golden_frames(40, 72, 96), ViewPlan(64, stride=2, frames=8, starts=2, crops=2))
    model = eventful.wrap(small_vivit.spatial, policies.TopR(5), attention="paper", prefix="ordinary")
    together = encode(model, tubelets(x))
    alone = [encode(model, tubelets(view[None])) for view in x]
    torch.testing.assert_close(together.tokens_VSD, torch.cat([one.tokens_VSD for one in alone]), atol=1e-5, rtol=0)
    assert together.share_V.tolist() == pytest.approx([float(one.share_V) for one in alone])
    assert 0.4 < float(together.share_V[0]) < 0.6
    assert encode(small_vivit.spatial, tubelets(x)).share_V.tolist() == [1] * 4


@torch.no_grad()
def test_videos_can_be_batched(small_vivit: ViViT) -> None:
    tokens_BVSD = torch.randn(3, 2, 4, 48)
    logits_BVK = small_vivit.temporal(tokens_BVSD)
    assert logits_BVK.shape == (3, 2, 97)
    torch.testing.assert_close(logits_BVK[1], small_vivit.temporal(tokens_BVSD[1]))
    torch.testing.assert_close(video_probabilities(logits_BVK)[2], logits_BVK[2].mean(0).softmax(0))


def test_the_classifier_drops_features_while_it_is_tuned(small_vivit: ViViT) -> None:
    tokens_VSD = torch.randn(2, 4, 48)
    assert torch.equal(small_vivit.temporal(tokens_VSD), small_vivit.temporal(tokens_VSD))
    small_vivit.temporal.train()
    assert not torch.equal(small_vivit.temporal(tokens_VSD), small_vivit.temporal(tokens_VSD))


def test_a_model_is_kept_in_one_file(small_vivit: ViViT, tmp_path: Path) -> None:
    path = tmp_path / "new" / "vivit.safetensors"
    save_vivit(small_vivit, path)
    loaded = load_vivit(path)
    assert not loaded.training and loaded.heads == 3
    for name, tensor in small_vivit.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_files_that_hold_no_vivit_are_refused(small_vivit: ViViT, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors does not exist"):
        load_vivit(tmp_path / "nowhere.safetensors")
    path = tmp_path / "vivit.safetensors"
    save_vivit(small_vivit, path)
    state = small_vivit.state_dict()
    for damage in (b"", path.read_bytes()[:2000]):
        path.write_bytes(damage)
        with pytest.raises(UserError, match="is no safetensors file"):
            load_vivit(path)
    missing = {name: tensor for name, tensor in state.items() if name != "temporal.norm.bias"}
    for wrong, message in ((missing, r"Missing key.*temporal\.norm\.bias"), ({**state, "a": torch.zeros(1)}, '"a"')):
        save_file(wrong, path, {"heads": "3"})
        with pytest.raises(UserError, match=f"holds no ViViT.*{message}"):
            load_vivit(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"holds no ViViT.*spatial\.pos_embed"):
        load_vivit(path)
    with pytest.raises(ValueError, match="7 frames of 64x64"):
        ViViT(64, 5, frames=7)
    with pytest.raises(ValueError, match="8 frames of 60x60"):
        ViViT(60, 5, frames=8)
