"""A clip of a video with its class, whose frames are counted at one rate whatever the video's own is.

Frame i of a clip is the one that is shown nearest to `start + i / rate`: a view of 32 frames at 30 frames per second
spans 32/30 s of a video of 59.94, 50, 47.95 or 29.97 frames per second alike.

Shape suffixes: T frames, H height, W width.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from envs.actions.playhead import Playhead, video_facts
from eventful.errors import UserError, VideoError

_HEADS = 8
"""Most places of a video that are open at the same time: views of a clip start at four times."""

_AHEAD_S = 2.0
"""Seconds that are decoded through rather than to look for a place anew."""


@dataclass(frozen=True)
class ActionClip:
    """One clip of one class.

    Attributes:
        name: Its name in the data set.
        label: Number of its class, from 0.
        path: Video file that it is part of.
        start_s: Where it starts in the video, in seconds.
        stop_s: Where it ends; None for the end of the video.
        rate: Frames per second at which its frames are counted; None for the video's own rate.
    """

    name: str
    label: int
    path: Path
    start_s: float = 0.0
    stop_s: float | None = None
    rate: float | None = None

    @property
    def key(self) -> str:
        """Changes with anything that changes the frames."""
        facts = self.path.stat()
        span = [self.start_s, self.stop_s, self.rate]
        return json.dumps([str(self.path.resolve()), facts.st_size, facts.st_mtime_ns, *span])

    @property
    def num_frames(self) -> int:
        """Number of frames at the clip's rate.

        Raises:
            VideoError: If the video cannot be read, or ends before the clip starts.
        """
        facts = video_facts(self.path)
        stop_s = facts.duration_s if self.stop_s is None else min(self.stop_s, facts.duration_s)
        if stop_s <= self.start_s:
            raise VideoError(
                f"clip {self.name} starts at {self.start_s:.2f} s of video {self.path}, "
                f"which ends at {facts.duration_s:.2f} s"
            )
        # Rounded to the nearest, as ffmpeg does: 300 frames at 29.97 per second are 250 at 25, not 251.
        return max(math.floor((stop_s - self.start_s) * (self.rate or facts.fps) + 0.5), 1)

    def frames(self) -> ClipFrames:
        """Its frames, decoded when they are asked for.

        Raises:
            VideoError: If the video cannot be read, or ends before the clip starts.
        """
        return ClipFrames(self)


class ClipFrames:
    """The frames of a clip: `frames[index_T]` are those with these numbers, uint8 RGB (T, 3, H, W).

    Only what is asked for is in memory. Asking in rising order, or from a few places that each go on, decodes the clip
    once for each place.

    Args:
        clip: The clip.

    Raises:
        VideoError: If its video cannot be read, or ends before the clip starts.
    """

    def __init__(self, clip: ActionClip) -> None:
        self._clip, self._length = clip, clip.num_frames
        self._rate = clip.rate or video_facts(clip.path).fps
        self._heads: list[Playhead] = []

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index_T: Tensor) -> Tensor:
        """The frames with these numbers.

        Raises:
            IndexError: If there is no such frame.
            VideoError: If the video cannot be decoded there, or changes its size.
        """
        numbers = [int(number) for number in index_T]
        for number in numbers:
            if not 0 <= number < self._length:
                raise IndexError(f"clip {self._clip.name} has frames 0 to {self._length - 1}, not {number}")
        found = {number: self._frame(number) for number in sorted(set(numbers))}
        sizes = {frame.shape for frame in found.values()}
        if len(sizes) > 1:
            raise VideoError(f"video {self._clip.path} changes its size in clip {self._clip.name}")
        return torch.from_numpy(np.stack([found[number] for number in numbers])).movedim(-1, 1)

    def close(self) -> None:
        """Closes the video; frames may be asked for again."""
        while self._heads:
            self._heads.pop().close()

    def _frame(self, number: int) -> np.ndarray:
        time_s = self._clip.start_s + number / self._rate
        head = self._head_before(time_s)
        self._heads.append(head)  # the one used last comes last
        return head.frame(time_s)

    def _head_before(self, time_s: float) -> Playhead:
        """Takes the nearest head that has not passed this time out of the list, or opens one."""
        near = [head for head in self._heads if time_s - _AHEAD_S <= head.time_s <= time_s]
        if near:
            head = max(near, key=lambda head: head.time_s)
            self._heads.remove(head)
            return head
        if len(self._heads) == _HEADS:
            self._heads.pop(0).close()
        return Playhead(self._clip.path, time_s)


def check_rate(rate: float | None) -> None:
    """Refuses a rate that is none.

    Raises:
        UserError: If it is not positive.
    """
    if rate is not None and not 0 < rate < math.inf:
        raise UserError(f"rate must be positive, got {rate}")
