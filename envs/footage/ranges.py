"""Which frames of a video are trained on, validated on, tested on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from eventful.errors import UserError

SPLITS = ("train", "val", "test")
TRAIN_SHARE = 0.7
VAL_SHARE = 0.1
LEAST = 2
"""Frames of a split at least: the first is a flush, so one must be left to decide on."""

Range = tuple[int, int | None]
"""First frame, and the one after the last; None for the end of the video."""


@dataclass(frozen=True)
class SplitRanges:
    """The ranges of frames that were asked for.

    Attributes:
        train: Frames to train on; None for what lies before `test`, or 70 % of the video. Their last tenth, two
            frames at least, is the split `val`.
        test: Frames to evaluate on; None for what lies behind `train`.
    """

    train: Range | None = None
    test: Range | None = None

    @classmethod
    def parse(cls, train_frames: str | None, test_frames: str | None) -> SplitRanges:
        """From texts such as `0-349` (last included) or `100-` (to the end).

        Raises:
            UserError: If a text is no range, or the ranges overlap.
        """
        ranges = cls(_parse(train_frames), _parse(test_frames))
        if ranges.train is not None and ranges.test is not None:
            first, second = sorted([ranges.train, ranges.test], key=lambda r: r[0])
            if first[1] is None or first[1] > second[0]:
                raise UserError(
                    "train_frames and test_frames overlap: evaluation needs frames that training has not seen"
                )
        return ranges

    @property
    def first(self) -> int:
        """First frame to train on."""
        return self.train[0] if self.train else 0

    @property
    def stop(self) -> int | None:
        """Number of frames of the video that are needed; None for all."""
        stops = [r[1] for r in (self.train, self.test) if r is not None]
        known = [stop for stop in stops if stop is not None]
        return max(known) if len(known) == 2 else None

    def of_split(self, split: str, total: int, video: Path) -> tuple[int, int]:
        """First frame and the one after the last, of a split in a video of `total` frames.

        Raises:
            UserError: If the video is too short for it.
        """
        train, test = self.train, self.test
        train = train or (0, test[0] if test else round(total * TRAIN_SHARE))
        start, end = train[0], total if train[1] is None else train[1]
        border = max(end - max(round((end - start) * VAL_SHARE), LEAST), start)
        test = test or (end, None)
        ranges = {"train": (start, border), "val": (border, end), "test": (test[0], test[1] or total)}
        first, last = ranges[split]
        if last > total:
            raise UserError(
                f"video {video} has {_frames(total)} (0-{total - 1}), split {split} is to have {first}-{last - 1}: "
                "set train_frames and test_frames"
            )
        if last - first < LEAST:
            raise UserError(
                f"video {video} has {_frames(total)}, of which split {split} gets {max(last - first, 0)}; it needs "
                f"{LEAST}: give {_enough(self)}, or other train_frames and test_frames"
            )
        return first, last


def _frames(count: int) -> str:
    return f"{count} frame" + ("" if count == 1 else "s")


def _enough(asked: SplitRanges) -> str:
    """The footage that has enough frames for all splits."""
    if asked.train is None and asked.test is None:
        return f"a video of at least {len(SPLITS) * LEAST} frames"
    return f"{2 * LEAST} frames to train_frames (the last {LEAST} or more are split val) and {LEAST} to test_frames"


def _parse(text: str | None) -> Range | None:
    """`a-b` (b included) or `a-` to (a, b + 1) or (a, None)."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+)\s*-\s*(\d*)\s*", text)
    if match is None or (match[2] and int(match[2]) < int(match[1])):
        raise UserError(f"a range of frames is written first-last, such as 0-349 or 100-, got {text!r}")
    return int(match[1]), int(match[2]) + 1 if match[2] else None
