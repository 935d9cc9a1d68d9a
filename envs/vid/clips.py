"""Sequences as the clips of a task: frames are decoded when they are asked for.

A split of ImageNet VID has up to a million frames; decoded, they would fill neither memory nor a usual disk.

Shape suffixes: T frames, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from envs.task import Clip
from envs.vid.images import read_image, size_of
from envs.vid.sequences import VidSequence
from eventful.errors import VideoError


class ImageFrames:
    """Image files as `envs.task.Frames`.

    Args:
        paths: Image files of one size.
        size: (height, width) of the images; that of the first one if None.

    Raises:
        VideoError: If the first image cannot be read.
    """

    def __init__(self, paths: Sequence[Path], size: tuple[int, int] | None = None) -> None:
        self._paths, self._size = paths, size_of(paths[0]) if size is None else size

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, 3)."""
        return len(self._paths), *self._size, 3

    def __iter__(self) -> Iterator[Tensor]:
        """The frames one after another; see `__getitem__` for errors."""
        return (self[t] for t in range(len(self._paths)))

    @overload
    def __getitem__(self, index: int, /) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice, /) -> ImageFrames: ...

    def __getitem__(self, index: int | slice, /) -> Tensor | ImageFrames:
        """A frame, decoded, uint8 RGB (H, W, 3), or some of the frames, which are not.

        Raises:
            VideoError: If the image cannot be read, or has another size than the first.
            IndexError: If there is no such frame.
        """
        if isinstance(index, slice):
            return ImageFrames(self._paths[index], self._size)
        image_HWC = read_image(self._paths[index])
        if tuple(image_HWC.shape[:2]) != self._size:
            height, width = image_HWC.shape[:2]
            raise VideoError(
                f"frame {self._paths[index]} is {width}x{height} (width x height), the first of its clip is "
                f"{self._size[1]}x{self._size[0]}"
            )
        return image_HWC


def clip_of(sequence: VidSequence) -> Clip:
    """A sequence as a clip; its targets have the size of the frames besides, `size` (2,): height and width.

    Raises:
        VideoError: If its first frame cannot be read.
    """
    frames = ImageFrames([frame.path for frame in sequence.frames])
    size = torch.tensor(frames.shape[1:3])
    targets = [{**target, "size": size} for target in sequence.targets]
    return Clip(sequence.name, frames, targets, tags={"clip": sequence.clip})
