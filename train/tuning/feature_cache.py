"""What the spatial part makes of videos, kept on disk: it is frozen, so it has to run over each video once.

A file for each video, in a folder for each way of computing them: `CACHE/<way>/<2 digits>/<video>.safetensors`. A name
is the digest of all that its content depends on: for the way, the weights, the policy, the options of the runtime and
the views; for the video, its `key`. So nothing stale is ever read, several processes may fill one cache, and an
interrupted run goes on where it was. A file of ViViT-B and 12 views takes 0.6 MB.

Shape suffixes: V views, S steps, D channels.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from envs.vivit import ViewPlan, encode, view_steps
from envs.vivit.videos import LabelledVideo
from eventful import EventfulModel
from eventful.console.output import progress
from eventful.disk.replaced import replace_file, replace_text
from eventful.errors import UserError
from policies.content_hash import content_hash
from train.tuning.policy_facts import policy_facts

FORMAT = 1
"""Raised when the same inputs give other numbers."""


@dataclasses.dataclass(frozen=True)
class Features:
    """What is kept of one video.

    Attributes:
        tokens_VSD: Class token of each step of each view, float32.
        share_V: Share of the dense MACs of the spatial part that each view took.
    """

    tokens_VSD: Tensor
    share_V: Tensor


class FeatureCache:
    """The features of videos, computed where they are missing.

    Args:
        folder: Folder of all caches.
        spatial: The spatial part of a ViViT, or that wrapped by `eventful.wrap`; on the device it is to run on.
        plan: The views of a video.

    Attributes:
        folder: Folder of these features.
        way: What they depend on besides the video, as plain data; also in the folder, as `way.json`.
    """

    def __init__(self, folder: Path, spatial: nn.Module, plan: ViewPlan) -> None:
        self._spatial, self._plan = spatial.eval(), plan
        self.way = _way(spatial, plan)
        self.folder = folder / content_hash(self.way)[:16]
        replace_text(self.folder / "way.json", json.dumps(self.way, indent=2, sort_keys=True))

    def fill(self, videos: Sequence[LabelledVideo], what: str) -> int:
        """Computes what is missing; says how far it is on stderr, where that is a terminal.

        Args:
            videos: The videos.
            what: What they are, for the bar.

        Returns:
            How many were computed.

        Raises:
            VideoError: If a video cannot be read; what was computed before it is kept.
        """
        missing = self.missing(videos)
        for video in progress(missing, f"features of {what}", unit="video"):
            self._write(video, self._compute(video))
        return len(missing)

    def missing(self, videos: Sequence[LabelledVideo]) -> list[LabelledVideo]:
        """Those of the videos whose features are not there."""
        return [video for video in videos if not self._path(video).is_file()]

    def read(self, video: LabelledVideo) -> Features:
        """The features of a video that is there.

        Raises:
            UserError: If the file is damaged.
            OSError: If it is missing.
        """
        path = self._path(video)
        if not path.is_file():
            raise FileNotFoundError(f"the features of {video.name} are not in {self.folder}: fill() computes them")
        try:
            return Features(**safetensors.torch.load_file(path))
        except (SafetensorError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}); delete it to have it computed anew") from error

    @torch.inference_mode()
    def _compute(self, video: LabelledVideo) -> Features:
        weight = next(self._spatial.parameters())
        steps = view_steps(video.frames(), self._plan, weight.device)
        encoded = encode(self._spatial, (step.to(weight.dtype) for step in steps))
        return Features(encoded.tokens_VSD.float().cpu(), encoded.share_V.cpu())

    def _write(self, video: LabelledVideo, features: Features) -> None:
        """Whole or not at all."""
        tensors = {f.name: getattr(features, f.name).contiguous() for f in dataclasses.fields(Features)}
        replace_file(self._path(video), partial(safetensors.torch.save_file, tensors))

    def _path(self, video: LabelledVideo) -> Path:
        name = content_hash(video.key)[:16]
        return self.folder / name[:2] / f"{name}.safetensors"


def _way(spatial: nn.Module, plan: ViewPlan) -> dict[str, Any]:
    vit = spatial.vit if isinstance(spatial, EventfulModel) else spatial
    weights = content_hash(vit.state_dict())
    way: dict[str, Any] = {"format": FORMAT, "weights": weights, "views": dataclasses.asdict(plan)}
    if not isinstance(spatial, EventfulModel):
        return way
    options = {name: str(value) for name, value in dataclasses.asdict(spatial.options).items()}
    return way | {"policy": policy_facts(spatial.policy), "options": options}
