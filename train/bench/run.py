"""Timing of eventful models against the dense one: every frame goes through all of them in turn.

Whatever else the machine does then meets all sides alike, and ratios are taken frame by frame.

Shape suffixes: C channels of a frame, H height, W width.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import eventful
import policies
from eventful.errors import UserError
from eventful.linear import onednn
from eventful.video.reader import read_frames
from train.timing import Quartiles, quartiles, timed

MODES: dict[str, dict[str, Any]] = {
    "gate/exact": {"attention": "exact"},
    "gate/paper": {"attention": "paper"},
    "gate/recompute": {"attention": "recompute"},
    "frame": {"granularity": "frame"},
}
"""Options of `eventful.wrap` for each mode of the benchmark."""


@dataclass(frozen=True)
class Setting:
    """What is the same for all modes of a case.

    Attributes:
        model: Name of a timm model.
        model_options: Keyword arguments of `timm.create_model`.
        size: Side of the frames in pixels.
        r: Tokens that each gate selects.
        dtype: Data type of weights and frames.
        device: Device of model and frames.
        buffer_dtype: Data type of the N x N buffers of `gate/paper`; `dtype` if None.
    """

    model: str
    model_options: dict[str, Any]
    size: int
    r: int
    dtype: torch.dtype
    device: torch.device
    buffer_dtype: torch.dtype | None = None

    def build(self, device: torch.device | None = None) -> nn.Module:
        """The dense model with random weights, the same at every call."""
        torch.manual_seed(0)
        try:
            with torch.device(device or self.device):
                vit = timm.create_model(self.model, img_size=self.size, num_classes=0, **self.model_options)
        except (RuntimeError, TypeError, AssertionError) as error:
            raise UserError(f"model={self.model} at {self.size} pixels: {error}") from error
        return vit.to(self.dtype).eval()

    def wrap(self, vit: nn.Module, mode: str) -> eventful.EventfulModel:
        """The model in one of the `MODES`."""
        options = dict(MODES[mode])
        if mode == "gate/paper":
            options["buffer_dtype"] = self.buffer_dtype
        return eventful.wrap(vit, policies.TopR(self.r), **options)


@dataclass(frozen=True)
class Timing:
    """One mode of a case. Times in ms; all triples are lower quartile, median, upper quartile.

    Attributes:
        ms: Time per frame.
        dense_ms: Time per frame of the dense model, on the same frames.
        speedup: Speed-up over the dense model.
        same_kernels: Speed-up over the dense model with its linear layers by oneDNN, as the modes have theirs on packed
            rows (`eventful.linear.onednn`): what is due to eventfulness alone. None where both have the same ones.
        macs: Dense MACs over this mode's, in the blocks (the paper's accounting).
        macs_overall: Dense MACs over this mode's with patch embedding and head on both sides: what the times contain.
        by_operation: MACs of each operation in the last frame.
        state_bytes: Size of the state in bytes.
    """

    ms: Quartiles
    dense_ms: Quartiles
    speedup: Quartiles
    same_kernels: Quartiles | None
    macs: float
    macs_overall: float
    by_operation: dict[str, float]
    state_bytes: int


@torch.inference_mode()
def time_case(
    setting: Setting, modes: list[str], frames: Iterator[Tensor], warmup: int, repeats: int
) -> dict[str, Timing]:
    """Runs `warmup` + `repeats` frames after the flush through the dense model and all modes."""
    vit = setting.build()
    models = {mode: setting.wrap(vit, mode) for mode in modes}
    first = next(frames)
    for model in models.values():
        model(first)
    calls: dict[str, Callable[[Tensor], Any]] = {"dense": vit, **models}
    if onednn.available() and setting.device.type == "cpu" and setting.dtype == torch.float32:
        calls["same"] = functools.partial(_with_onednn, vit)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for frame in itertools.islice(frames, warmup + repeats):
        for name, call in calls.items():
            seconds[name].append(timed(call, frame))
    times = {name: np.array(values[warmup:]) for name, values in seconds.items()}
    return {mode: _timing(models[mode], times, mode) for mode in modes}


def synthetic(setting: Setting, noise: float, changed: float, seed: int) -> Iterator[Tensor]:
    """An endless stream (1, 3, H, W): noise everywhere, and a square that changes, somewhere else in every frame.

    Args:
        setting: Setting that gives size, dtype and device.
        noise: Standard deviation of what every pixel changes by in a frame.
        changed: Share of the picture that the square covers.
        seed: Seed of the stream.
    """
    generator = torch.Generator().manual_seed(seed)
    size, side = setting.size, max(1, round(setting.size * changed**0.5))
    frame_CHW = torch.randn(3, size, size, generator=generator)
    while True:
        yield frame_CHW[None].to(setting.device, setting.dtype)
        frame_CHW = frame_CHW + noise * torch.randn(3, size, size, generator=generator)
        y, x = torch.randint(0, size - side + 1, (2,), generator=generator).tolist()
        frame_CHW[:, y : y + side, x : x + side] = torch.randn(3, side, side, generator=generator)


def from_video(setting: Setting, path: Path) -> Iterator[Tensor]:
    """The frames of a video (1, 3, H, W), stretched to the size of the setting, forwards and backwards for ever."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    frames = []
    for frame in itertools.islice(read_frames(path), 200):
        pixels_CHW = torch.from_numpy(frame).permute(2, 0, 1).float() / 255
        resized = F.interpolate(pixels_CHW[None], size=(setting.size,) * 2, mode="bilinear", antialias=True)
        frames.append(((resized - mean) / std).to(setting.device, setting.dtype))
    return itertools.cycle(frames + frames[-2:0:-1])


def _with_onednn(vit: nn.Module, frame: Tensor) -> Any:
    with onednn.OneDnnLinear():
        return vit(frame)


def _timing(model: eventful.EventfulModel, times: dict[str, np.ndarray], mode: str) -> Timing:
    macs, state = model.macs, model.state
    if state is None:
        raise RuntimeError("the model has seen no frame")
    return Timing(
        ms=quartiles(times[mode] * 1e3),
        dense_ms=quartiles(times["dense"] * 1e3),
        speedup=quartiles(times["dense"] / times[mode]),
        same_kernels=quartiles(times["same"] / times[mode]) if "same" in times else None,
        macs=1 / float(macs.share[0]),
        macs_overall=1 / float(macs.overall_share[0]),
        by_operation={name: float(amount[0]) for name, amount in macs.by_operation.items()},
        state_bytes=state.nbytes(),
    )
