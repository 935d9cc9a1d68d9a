"""Frames of a video that a model takes as one: what belongs together, when it is shown, what a broken video leaves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from eventful.errors import VideoError
from eventful.video.frames import Frame, FrameReader, Tubelet, TubeletReader, in_tubelets


class Numbered(FrameReader):
    """Frames whose pixels are their number; breaks after the last one, if it is told to."""

    def __init__(self, count: int, known: bool = True, breaks: bool = False) -> None:
        self.source, self.fps, self.count = "numbers", 10.0, count if known else None
        self._count, self._breaks = count, breaks

    def __iter__(self) -> Iterator[Frame]:
        for k in range(self._count):
            yield np.full((2, 3, 3), k, np.uint8)
        if self._breaks:
            raise VideoError("numbers breaks")


def numbers(frame: Frame, height: int = 2) -> list[int]:
    assert all((part == part[0, 0, 0]).all() for part in np.split(frame, len(frame) // height))
    return frame[::height, 0, 0].tolist()


@pytest.mark.parametrize(
    ("count", "frames", "stride", "expected"),
    [
        (6, 2, 1, [[0, 1], [2, 3], [4, 5]]),
        (5, 2, 1, [[0, 1], [2, 3], [4, 4]]),
        (9, 2, 2, [[0, 2], [4, 6], [8, 8]]),
        (8, 2, 2, [[0, 2], [4, 6]]),
        (7, 3, 1, [[0, 1, 2], [3, 4, 5], [6, 6, 6]]),
        (1, 2, 3, [[0, 0]]),
        (0, 2, 1, []),
    ],
)
def test_what_belongs_together(count: int, frames: int, stride: int, expected: list[list[int]]) -> None:
    reader = TubeletReader(Numbered(count), Tubelet(frames, stride))
    assert [numbers(frame) for frame in reader] == expected
    assert reader.count == len(expected) and reader.fps == pytest.approx(10 / frames / stride)
    assert [time for _, time in reader.timed()] == pytest.approx([pair[0] / 10 for pair in expected])


def test_what_is_said_of_the_source_is_kept() -> None:
    inner = Numbered(4, known=False)
    reader = in_tubelets(inner, Tubelet(2))
    assert reader.count is None and reader.source == "numbers" and not reader.live
    assert reader.origin is inner and in_tubelets(inner, None) is inner and inner.origin is inner


def test_a_broken_video_keeps_its_whole_tubelets() -> None:
    seen = []
    with pytest.raises(VideoError, match="breaks"):
        for frame in TubeletReader(Numbered(5, breaks=True), Tubelet(2)):
            seen.append(numbers(frame))
    assert seen == [[0, 1], [2, 3]]
