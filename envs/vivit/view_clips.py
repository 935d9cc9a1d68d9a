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
    """Keeps the videos open that were read last, so that a stream's next step is decoded from where it stands."""

    def __init__(self) -> None:
        self._open: OrderedDict[int, tuple[LabelledVideo, Frames]] = OrderedDict()

    def frames(self, video: LabelledVideo) -> Frames:
        """The frames of a video.

        Raises:
            VideoError: If they cannot be read.
        """
        # The video is kept as well: the number of one that is gone may become another's.
        key = id(video)
        if key not in self._open:
            self._open[key] = video, video.frames()
        self._open.move_to_end(key)
        while len(self._open) > _OPEN:
            _, (_, frames) = self._open.popitem(last=False)
            close = getattr(frames, "close", None)
            if close is not None:
                close()
        return self._open[key][1]


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
        """(S, n * H, W, 3); decodes a frame."""
        height, width = self.frame_size
        return len(self.steps), TUBELET * height, width, 3

    @cached_property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the video."""
        height, width = self._frames(self._index_ST[0, :1]).shape[-2:]
        return height, width

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
        return rearrange(self._frames(self._index_ST[self.steps[index]]), "n c h w -> (n h) w c").contiguous()

    @cached_property
    def _index_ST(self) -> Tensor:
        """Frames of the video of every step of the view."""
        return frame_indices(len(self.videos.frames(self.video)), self.plan)[self.start].unflatten(0, (-1, TUBELET))

    def _frames(self, index_T: Tensor) -> Tensor:
        return self.videos.frames(self.video)[index_T]
