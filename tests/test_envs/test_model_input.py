"""Frames are resized as Pillow resizes pictures, which is how models on timm were trained and evaluated."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from envs.footage.model_input import ModelInput


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_resizing_is_that_of_pillow(name: str) -> None:
    model = timm.create_model("test_vit", img_size=(32, 48), num_classes=0)
    model.pretrained_cfg["interpolation"] = name
    frame_HWC = np.random.default_rng(0).integers(0, 256, (75, 130, 3), dtype=np.uint8)
    found = ModelInput(model).resize(torch.from_numpy(frame_HWC)[None])[0].numpy()
    expected = np.asarray(Image.fromarray(frame_HWC).resize((48, 32), Image.Resampling[name.upper()]))
    assert found.shape == (32, 48, 3) and found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def test_input_is_normalised_and_the_frame_is_left_alone() -> None:
    model = timm.create_model("test_vit", img_size=(32, 48), num_classes=0)
    data = timm.data.resolve_model_data_config(model)
    frame_BHWC = torch.randint(0, 256, (1, 32, 48, 3), dtype=torch.uint8)
    before = frame_BHWC.clone()
    x_BCHW = ModelInput(model).preprocess(frame_BHWC)
    mean, std = (torch.tensor(data[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(x_BCHW, (before.permute(0, 3, 1, 2) / 255 - mean) / std)
    assert torch.equal(frame_BHWC, before) and x_BCHW.is_contiguous()
