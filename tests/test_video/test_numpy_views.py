"""Frames that are views of other arrays, as OpenCV and numpy make them, are run as their copies are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from footage import moving_frames

import policies
from envs.distill import Distillation
from eventful.infer import prepare

VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "BGR to RGB": lambda frame: frame[..., ::-1],
    "mirrored": np.fliplr,
    "upside down": np.flipud,
    "every other pixel": lambda frame: frame[::2, ::2],
    "channels first": lambda frame: np.ascontiguousarray(frame.transpose(2, 0, 1)).transpose(1, 2, 0),
    "cut out": lambda frame: frame[8:40, 16:64],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_view_gives_what_its_copy_gives(view: Callable[[np.ndarray], np.ndarray]) -> None:
    torch.manual_seed(0)
    task = Distillation(timm.create_model("test_vit", img_size=(64, 96), num_classes=0))
    runners = [prepare(policies.TopR(3), task, options={"granularity": "frame"}, device="cpu") for _ in range(2)]
    for frame in moving_frames(2):
        seen, copied = (
            runner.step(pixels) for runner, pixels in zip(runners, (view(frame), view(frame).copy()), strict=True)
        )
        assert torch.equal(seen.outputs, copied.outputs)
