"""The distillation task: weights from files, splits, clips and preprocessing."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import timm.data
import torch
from footage import write_video
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.layers import resample_abs_pos_embed

from envs.backbones import load_backbone, read_weights
from envs.convert.arrays import read_arrays
from envs.distill import Distillation
from envs.footage import videos_in
from envs.task import VideoTask, has_metric
from eventful.errors import UserError
from eventful.tasks import load_task


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half-precision weights of a tiny model at 64 x 64 pixels (a 4 x 4 grid)."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    model = timm.create_model("test_vit", img_size=64)
    safetensors.torch.save_file({k: v.half() for k, v in model.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", 100)


def task(tmp_path: Path, **options: Any) -> Distillation:
    model = options.pop("model", None) or timm.create_model("test_vit", img_size=(32, 48), num_classes=0)
    return Distillation(model, cache=tmp_path / "cache", **options)


def test_weights_are_resampled_as_timm_does(weights: Path) -> None:
    model = load_backbone("test_vit", weights, image_size=(32, 96))
    state = {k: v.float() for k, v in safetensors.torch.load_file(weights).items()}
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], new_size=[2, 6], num_prefix_tokens=1)
    expected = timm.create_model("test_vit", img_size=(32, 96))
    expected.load_state_dict(state)
    x = torch.rand(1, 3, 32, 96)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), expected.eval()(x))


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_pth_files(weights: Path, tmp_path: Path, wrapper: str | None) -> None:
    state = safetensors.torch.load_file(weights)
    torch.save(state if wrapper is None else {wrapper: state}, tmp_path / "a.pth")
    model = load_backbone("test_vit", tmp_path / "a.pth", image_size=(64, 64))
    assert model.state_dict()["head.weight"].dtype == torch.float32
    assert torch.equal(model.state_dict()["head.weight"], state["head.weight"].float())


def test_weights_that_do_not_fit(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not in the model: head\.bias, head\.weight"):
        load_backbone("test_vit", weights, image_size=(64, 64), num_classes=0)
    with pytest.raises(UserError, match=r"of another shape: head\.bias \(1000,\) for \(7,\)"):
        load_backbone("test_vit", weights, image_size=(64, 64), num_classes=7)
    with pytest.raises(UserError, match=r"pos_embed \(1, 17, 64\) cannot be resampled to \(1, 17, 192\)"):
        load_backbone("vit_tiny_patch16_224", weights, image_size=(64, 64))
    with pytest.raises(FileNotFoundError, match=r"no\.pth does not exist"):
        load_backbone("test_vit", tmp_path / "no.pth")
    for name, content in {"a.safetensors": b"garbage", "b.pth": b"garbage", "c.pth": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            load_backbone("test_vit", tmp_path / name)
    torch.save(torch.nn.Linear(1, 1), tmp_path / "d.pth")
    with pytest.raises(UserError, match=r"d\.pth is no PyTorch file that holds nothing but tensors"):
        load_backbone("test_vit", tmp_path / "d.pth")


@pytest.mark.parametrize("reader", [read_weights, read_arrays])
@given(content=st.binary(max_size=64) | st.binary(max_size=24).map(lambda tail: b"\x80\x02" + tail))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_that_are_no_weights_are_refused(reader: Callable[[Path], Any], content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.pth"):
        reader(path)


def test_models_and_sizes_that_do_not_exist(weights: Path) -> None:
    with pytest.raises(UserError, match=r"timm has no model 'tst_vit'; did you mean test_vit\?"):
        load_backbone("tst_vit", weights)
    with pytest.raises(UserError, match=r"\[60, 70\] is no multiple of the patches of 16x16 pixels; \[64, 64\] is"):
        load_backbone("test_vit", weights, image_size=(60, 70))
    with pytest.raises(UserError, match="image_size must be"):
        load_backbone("test_vit", weights, image_size=[64])
    with pytest.raises(UserError, match="resnet18 takes frames of any size"):
        load_backbone("resnet18", weights, image_size=(64, 64))


def test_is_a_video_task_by_name(weights: Path) -> None:
    built = load_task("distill", model="test_vit", weights=str(weights), image_size=[64, 64])
    assert isinstance(built, VideoTask)
    assert not built.has_labels and has_metric(built) and built.metric_name == "top-1 agreement"
    assert not built.model.training and not any(p.requires_grad for p in built.model.parameters())
    with pytest.raises(UserError, match="no labels"):
        built.loss(None, [])


def frames_of(clips: list[Any]) -> list[str]:
    return [clip.name.partition(":")[2] for clip in clips]


def test_default_split(tmp_path: Path, video: Path) -> None:
    split = task(tmp_path, video=video, clip_length=20)
    assert frames_of(split.clips("train")) == ["0-20", "21-41", "42-62"]
    assert frames_of(split.clips("val")) == ["63-69"]
    assert frames_of(split.clips("test")) == ["70-99"]
    clip = split.clips("train")[0]
    assert clip.frames_THWC.shape == (21, 32, 48, 3) and clip.frames_THWC.dtype == torch.uint8
    assert clip.fps == 25 and clip.targets == ()


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ({"train_frames": "10-49"}, ("10-45", "46-49", "50-99")),
        ({"test_frames": "0-9"}, None),
        ({"test_frames": "80-"}, ("0-71", "72-79", "80-99")),
        ({"train_frames": "50-99", "test_frames": "0-19"}, ("50-94", "95-99", "0-19")),
    ],
)
def test_given_ranges(
    ranges: dict[str, str], expected: tuple[str, str, str] | None, tmp_path: Path, video: Path
) -> None:
    split = task(tmp_path, video=video, clip_length=50, **ranges)
    if expected is None:
        with pytest.raises(UserError, match=r"has 100 frames, of which split train gets 0; it needs 2: give 4 frames"):
            split.clips("train")
        return
    assert tuple(frames_of(split.clips(name))[0] for name in ("train", "val", "test")) == expected


def test_mistakes_in_ranges(tmp_path: Path, video: Path) -> None:
    with pytest.raises(UserError, match="overlap"):
        task(tmp_path, train_frames="0-50", test_frames="50-80")
    with pytest.raises(UserError, match="0-349 or 100-, got '5'"):
        task(tmp_path, train_frames="5")
    with pytest.raises(UserError, match="has 100 frames"):
        task(tmp_path, video=video, train_frames="0-349", test_frames="350-499").clips("test")
    with pytest.raises(UserError, match="no split 'tset'"):
        task(tmp_path, video=video).clips("tset")
    with pytest.raises(UserError, match="video=PATH"):
        task(tmp_path).clips("train")


@pytest.mark.parametrize(
    ("frames", "lacking"),
    [(1, {"train": 0, "val": 1, "test": 0}), (3, {"train": 0, "test": 1}), (5, {"test": 1}), (6, {}), (12, {})],
)
def test_short_footage_is_enough_or_it_is_said_how_much_is(
    frames: int, lacking: dict[str, int], tmp_path: Path
) -> None:
    split = task(tmp_path, video=write_video(tmp_path / "short.mp4", frames))
    for name in ("train", "val", "test"):
        if name not in lacking:
            assert min(len(clip) for clip in split.clips(name)) >= 2, name
            continue
        got = f"of which split {name} gets {lacking[name]}; it needs 2: give a video of at least 6 frames"
        with pytest.raises(UserError, match=f"has {frames} frames?, {got}"):
            split.clips(name)


def test_clips_of_one_frame_are_refused(tmp_path: Path, video: Path) -> None:
    with pytest.raises(UserError, match="clip_length must be at least 2, as the first frame is a flush; got 1"):
        task(tmp_path, video=video, clip_length=1)
    with pytest.raises(UserError, match=r"split test gets 1; it needs 2: give 4 frames to train_frames .* 2 to test"):
        task(tmp_path, video=video, test_frames="99-").clips("test")


def wrapped(state: dict[str, Any], prefix: str, **others: Any) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()} | others


@pytest.mark.parametrize(
    "inside",
    [
        lambda sd, old: {"model_state_dict": sd, "epoch": 3},
        lambda sd, old: {"net": sd},
        lambda sd, old: wrapped(sd, "_orig_mod."),
        lambda sd, old: wrapped(sd, "module._orig_mod."),
        lambda sd, old: {"state_dict": wrapped(sd, "model.")},
        lambda sd, old: wrapped(sd, "vit."),
        lambda sd, old: {"state_dict": sd, "args": argparse.Namespace(lr=1.0)},
        lambda sd, old: {**sd, "mask_token": torch.zeros(1, 64)},
        lambda sd, old: {"state_dict": old, "state_dict_ema": sd},
        lambda sd, old: {"model": old, "model_ema": {"module." + name: value for name, value in sd.items()}},
        lambda sd, old: wrapped(sd, "_orig_mod.module."),
        lambda sd, old: wrapped(sd, "module.module.", n_averaged=torch.tensor(3)),
        lambda sd, old: {"student": old, "teacher": wrapped(sd, "backbone.", **{"dino_head.w": torch.ones(2)})},
        lambda sd, old: {"encoder": old, "target_encoder": wrapped(sd, "module.")},
        lambda sd, old: wrapped(sd, "encoder.", **{"decoder.weight": torch.ones(3)}),
        lambda sd, old: wrapped(sd, "visual.trunk."),
        lambda sd, old: {"student": sd, "optimizer": {"state": {}, "param_groups": []}},
    ],
)
def test_weights_are_found_where_training_scripts_put_them(inside: Any, tmp_path: Path) -> None:
    state, old = (timm.create_model("test_vit", img_size=64).state_dict() for _ in range(2))
    torch.save(inside(state, old), tmp_path / "w.pth")
    found = load_backbone("test_vit", tmp_path / "w.pth", (64, 64)).state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_what_is_left_out_of_a_weights_file_is_said(tmp_path: Path) -> None:
    state = timm.create_model("test_vit", img_size=64).state_dict()
    torch.save(wrapped(state, "backbone.", **{"decode_head.weight": torch.zeros(2)}), tmp_path / "w.pth")
    with pytest.warns(UserWarning, match=r"under 'backbone\.'; not read: decode_head\.weight"):
        load_backbone("test_vit", tmp_path / "w.pth", (64, 64))


def test_other_weights_in_the_same_file_are_named(tmp_path: Path) -> None:
    state = timm.create_model("test_vit", img_size=64).state_dict()
    torch.save({"model": state, "ema": state, "optimizer": {"lr": 0.1}, "epoch": 3}, tmp_path / "w.pth")
    with pytest.warns(UserWarning, match=r"under 'model' are read; not read: those under ema$"):
        load_backbone("test_vit", tmp_path / "w.pth", (64, 64))
    torch.save({"online": state}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"one under state_dict_ema, .* student \(it has online\)"):
        load_backbone("test_vit", tmp_path / "w.pth", (64, 64))


def test_quantised_weights_are_not_taken_for_numbers(tmp_path: Path) -> None:
    state = {
        name: (x * 100).to(torch.int8) for name, x in timm.create_model("test_vit", img_size=64).state_dict().items()
    }
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"whole numbers, as of a quantised model: blocks\.0\.attn"):
        load_backbone("test_vit", tmp_path / "w.pth", (64, 64))


def test_folder_of_videos(tmp_path: Path) -> None:
    folder = tmp_path / "footage"
    for name in ("a.mp4", "b.mkv"):
        write_video(folder / name, 20)
    names = [clip.name for clip in task(tmp_path, video=folder).clips("test")]
    assert names == ["a.mp4:14-19", "b.mkv:14-19"]
    # What macOS leaves on drives of other systems.
    (folder / "._a.mp4").write_bytes(b"\0\5\x16\7")
    assert [path.name for path in videos_in(folder)] == ["a.mp4", "b.mkv"]
    with pytest.raises(UserError, match="neither images nor videos"):
        task(tmp_path, video=tmp_path).clips("test")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "thumbnail.jpg")
    with pytest.raises(UserError, match="has 1 images and 2 videos"):
        task(tmp_path, video=folder).clips("test")


def test_cached_clips_and_live_frames_give_the_same_input(tmp_path: Path, video: Path) -> None:
    from eventful.video.reader import read_frames

    split = task(tmp_path, video=video)
    live = next(iter(read_frames(video)))
    from_clip = split.preprocess(split.clips("train")[0].frames_THWC[:1])
    from_video = split.preprocess(torch.from_numpy(live)[None])
    assert from_clip.shape == (1, 3, 32, 48)
    assert torch.equal(from_clip, from_video)


def test_preprocess_normalises_like_timm(tmp_path: Path) -> None:
    split = task(tmp_path)
    data = timm.data.resolve_model_data_config(split.model)
    frame = torch.randint(0, 256, (2, 32, 48, 3), dtype=torch.uint8)
    expected = (frame.numpy() / 255 - np.array(data["mean"])) / np.array(data["std"])
    assert torch.allclose(split.preprocess(frame).permute(0, 2, 3, 1).double(), torch.from_numpy(expected), atol=1e-6)
    with pytest.raises(ValueError, match="uint8"):
        split.preprocess(torch.rand(1, 32, 48, 3))


def test_predictions(tmp_path: Path) -> None:
    classifier = task(tmp_path, model=timm.create_model("test_vit", img_size=32, num_classes=3))
    found = classifier.predictions(torch.tensor([[0.0, 2.0, 1.0]]), (32, 32))
    assert [p["label"] for p in found[0]] == ["1", "2", "0"]
    assert sum(p["score"] for p in found[0]) == pytest.approx(1)
    assert task(tmp_path).predictions(torch.tensor([[3.0, 4.0]]), (32, 32)) == [[{"feature_norm": 5.0}]]
