"""Videos cut into the clips of each split.

Shape suffixes: T frames, H height, W width, C channels.
"""

from __future__ import annotations

from pathlib import Path

from envs.footage.decoded import Alteration, default_cache, load_footage, videos_in
from envs.footage.model_input import ModelInput
from envs.footage.ranges import LEAST, SPLITS, SplitRanges
from envs.task import Clip
from eventful.errors import UserError


class FootageClips:
    """The clips of a task whose footage is a video, or a folder of them.

    Args:
        task: Name of the task, for messages.
        video: Video file, folder of images, or folder of videos (each split alike); None where there are no clips.
        ranges: Frames of the splits.
        clip_length: Least number of frames of a clip. A range is cut into equal clips; a rest of fewer frames than
            there are clips is left out.
        model_input: Resizes the frames.
        cache: Folder for decoded footage; `$EVENTFUL_CACHE/distill` or `~/.cache/eventful-policies/distill` if None.
        alteration: What is done to the resized frames; None for nothing.

    Raises:
        UserError: If the length of the clips is below 2.
    """

    def __init__(
        self,
        task: str,
        video: str | Path | None,
        ranges: SplitRanges,
        clip_length: int,
        model_input: ModelInput,
        cache: str | Path | None = None,
        alteration: Alteration | None = None,
    ) -> None:
        if clip_length < LEAST:
            raise UserError(f"clip_length must be at least {LEAST}, as the first frame is a flush; got {clip_length}")
        self._task, self._ranges, self._length = task, ranges, clip_length
        self.video = None if video is None else Path(video)
        self._input, self._alteration = model_input, alteration
        self._cache = default_cache() if cache is None else Path(cache)

    def of_split(self, split: str) -> list[Clip]:
        """Clips of `train`, `val` or `test`; the footage is decoded on first use.

        Raises:
            UserError: If there is no such split, no video was given, or a range lies outside of it.
            VideoError: If a video cannot be read.
        """
        if split not in SPLITS:
            raise UserError(f"task {self._task} has no split {split!r}; it has train, val and test")
        if self.video is None:
            raise UserError(f"task {self._task} needs footage: give video=PATH")
        return [clip for video in videos_in(self.video) for clip in self._cut(video, split)]

    def _cut(self, video: Path, split: str) -> list[Clip]:
        frames_THWC, fps = load_footage(video, self._input, self._ranges.stop, self._cache, self._alteration)
        start, end = self._ranges.of_split(split, len(frames_THWC), video)
        count = max((end - start) // self._length, 1)
        length = (end - start) // count
        return [
            Clip(
                name=f"{video.name}:{first}-{first + length - 1}",
                frames_THWC=frames_THWC[first : first + length],
                fps=fps,
                tags={"video": video.name},
            )
            for first in range(start, start + count * length, length)
        ]
