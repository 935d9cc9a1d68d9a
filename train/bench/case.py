"""A case of the benchmark: model, frames and modes.

Shape suffixes: C channels of a frame, H height, W width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import eventful
import policies
from eventful.errors import UserError
from eventful.families import adapt
from eventful.families.vitdet import vitdet_b
from eventful.graphs import GraphedStream
from eventful.video.reader import read_frames
from policies import GateObservation, Selection

MODES: dict[str, dict[str, Any]] = {
    "gate/exact": {"attention": "exact"},
    "gate/paper": {"attention": "paper"},
    "gate/recompute": {"attention": "recompute"},
    "frame": {"granularity": "frame"},
    "gate/recompute/graph": {"attention": "recompute"},
    "frame/graph": {"granularity": "frame"},
    "frame/graph/threshold": {"granularity": "frame"},
}
"""Options of `eventful.wrap` for each mode of the benchmark; frames of `MODE/graph` are a `GraphedStream`'s."""

GRAPH = "/graph"
"""What the names of these have in them."""

THRESHOLD = "/threshold"
"""How names of modes end whose streams do not know how many tokens there will be."""

VITDET = "vitdet_b"
"""Name of the paper's detection backbone, `eventful.families.vitdet.vitdet_b`, which timm does not have."""


@dataclass(frozen=True)
class Setting:
    """What is the same for all modes of a case.

    Attributes:
        model: Name of a timm model, or `VITDET`.
        model_options: Keyword arguments of `timm.create_model`, or of `vitdet_b`.
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
                if self.model == VITDET:
                    vit: nn.Module = vitdet_b(self.size, **self.model_options)
                else:
                    vit = timm.create_model(self.model, img_size=self.size, num_classes=0, **self.model_options)
        except (RuntimeError, TypeError, AssertionError) as error:
            raise UserError(f"model={self.model} at {self.size} pixels: {error}") from error
        return vit.to(self.dtype).eval()

    def tokens(self) -> int:
        """Number N of tokens of a frame, class and register tokens included."""
        backbone = adapt(self.build(torch.device("meta")))
        rows, columns = backbone.grid((self.size, self.size))
        return backbone.prefix + rows * columns

    def wrap(self, vit: nn.Module, mode: str) -> eventful.EventfulModel:
        """The model in one of the `MODES`."""
        options = dict(MODES[mode])
        if mode == "gate/paper":
            options["buffer_dtype"] = self.buffer_dtype
        policy = _AsMask(self.r) if mode.endswith(THRESHOLD) else policies.TopR(self.r)
        return eventful.wrap(vit, policy, **options)


class _AsMask(policies.TopR):
    """The same tokens as top-r, as a mask: what a threshold gives that comes to r."""

    def select(self, observation: GateObservation) -> Selection:
        mask_BN = super().select(observation).as_mask(observation.layout.tokens)
        return Selection(mask_BN=mask_BN, score_BN=observation.error_BN)


def player(mode: str, model: eventful.EventfulModel, first: Tensor) -> Callable[[Tensor], Any]:
    """What plays frames in a mode, past a flush.

    Args:
        mode: Name of the mode.
        model: The model, as `Setting.wrap` makes it.
        first: A frame (1, 3, H, W).
    """
    model(first)
    if GRAPH not in mode:
        return model
    # The model itself says what a frame that is no flush costs.
    model(first)
    stream = GraphedStream(model, first)
    stream(first)
    return stream


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
