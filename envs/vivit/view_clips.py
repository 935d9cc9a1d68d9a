"""Views of videos as clips of a task: their frames are tubelets, decoded when they are asked for.

Shape suffixes: S steps, T frames, n frames of a tubelet, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import overload

from einops import rearrange
from torch import Tensor

from envs.vivit.model import TUBELET
from envs.vivit.videos import LabelledVideo
from envs.vivit.views import Frames, ViewPlan, frame_indices

_OPEN = 16
"""Videos that are open at the same time: those of streams that run side by side."""


class OpenVideos:
    """Decodes tubelets, and keeps those that were decoded first; the rest is decoded again whenever it is asked for.

    The videos that were read last stay open, so that a stream's next step is decoded from where it stands.

    Args:
        cache_bytes: Bytes for tubelets that are kept.
    """

    def __init__(self, cache_bytes: int) -> None:
        self._room = cache_bytes
        self._open: OrderedDict[str, Frames] = OrderedDict()
        self._kept: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def frames(self, video: LabelledVideo, key: str) -> Frames:
        """The frames of a video with this key (`LabelledVideo.key`).

        Raises:
            VideoError: If they cannot be read.
        """
        if key not in self._open:
            self._open[key] = video.frames()
        self._open.move_to_end(key)
        while len(self._open) > _OPEN:
            _, frames = self._open.popitem(last=False)
            close = getattr(frames, "close", None)
            if close is not None:
                close()
        return self._open[key]

    def tubelet(self, video: LabelledVideo, key: str, index_T: Tensor) -> Tensor:
        """Frames of a video, one above the other (n * H, W, 3), uint8; not to be changed.

        Raises:
            VideoError: If they cannot be read.
        """
        place = key, tuple(index_T.tolist())
        if place in self._kept:
            return self._kept[place]
        frame_HWC = rearrange(self.frames(video, key)[index_T], "n c h w -> (n h) w c").contiguous()
        if frame_HWC.nbytes <= self._room:
            self._room -= frame_HWC.nbytes
            self._kept[place] = frame_HWC
        return frame_HWC


@dataclass(frozen=True)
class StepFrames:
    """The tubelets of a view, n frames of the video one above the other (S, n * H, W, 3); `envs.task.Frames`.

    Attributes:
        videos: Where the video is opened.
        video: The video.
        plan: Plan of its views.
        start: Which of the plan's times the view starts at.
        steps: Which of its steps these are.
    """

    videos: OpenVideos
    video: LabelledVideo
    plan: ViewPlan
    start: int
    steps: range

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(S, n * H, W, 3); decodes the first tubelet."""
        height, width, colours = self._first.shape
        return len(self.steps), height, width, colours

    def __iter__(self) -> Iterator[Tensor]:
        return (self[step] for step in range(len(self.steps)))

    @overload
    def __getitem__(self, index: int, /) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice, /) -> StepFrames: ...

    def __getitem__(self, index: int | slice, /) -> Tensor | StepFrames:
        """One tubelet (n * H, W, 3), or some of them."""
        if isinstance(index, slice):
            return dataclasses.replace(self, steps=self.steps[index])
        return self.videos.tubelet(self.video, self._key, self._index_ST[self.steps[index]])

    @cached_property
    def _first(self) -> Tensor:
        """The first tubelet of the view, as large as all, without its pixels."""
        return self.videos.tubelet(self.video, self._key, self._index_ST[0]).to("meta")

    @cached_property
    def _index_ST(self) -> Tensor:
        """Frames of the video of every step of the view."""
        length = len(self.videos.frames(self.video, self._key))
        return frame_indices(length, self.plan)[self.start].unflatten(0, (-1, TUBELET))

    @cached_property
    def _key(self) -> str:
        return self.video.key
