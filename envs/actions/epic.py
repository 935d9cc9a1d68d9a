"""EPIC-KITCHENS-100 (Damen et al. 2022): which verb does a clip show?

    EPIC_100_train.csv, EPIC_100_validation.csv           the official annotations
    videos/<video_id>.MP4  or  <participant_id>/videos/<video_id>.MP4      suffix .mp4 as well

The paper's copies of the videos have 30 frames per second, which its views count on; most official ones have 59.94.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from envs.actions.broken import Broken, check_broken, readable
from envs.actions.clip import ActionClip, check_rate
from envs.actions.table import rows_of
from envs.vid.files import inside
from eventful.errors import UserError

VERBS = 97
RATE = 30.0

_COLUMNS = ("narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp", "verb_class")
_TABLES = {"train": "EPIC_100_train.csv", "validation": "EPIC_100_validation.csv"}


class EpicKitchens:
    """The data set.

    Args:
        root: Folder with the annotations and the videos.
        rate: Frames per second at which frames are counted.
        broken: Whether a video that is missing or cannot be decoded is an error, or its clips are left out.

    Attributes:
        classes: Number of classes.
        stride: Frames from one frame of a view to the next, as published.
        left_out: Clips of the split that was last asked for that cannot be read, and why.

    Raises:
        UserError: If an argument is none of those there are.
    """

    classes = VERBS
    stride = 1

    def __init__(self, root: str | Path, rate: float = RATE, broken: Broken = "error") -> None:
        check_rate(rate)
        check_broken(broken)
        self._root, self._rate, self._broken = Path(root), rate, broken
        self.left_out: Mapping[str, str] = {}

    def videos(self, split: str) -> list[ActionClip]:
        """Clips of `train` or `validation`, in the order of the table.

        Raises:
            UserError: If there is no such split, or the table is missing or damaged.
            VideoError: If a video is missing or cannot be decoded, unless such clips are left out.
        """
        if split not in _TABLES:
            raise UserError(f"EPIC-KITCHENS has no split {split!r}; it has {', '.join(_TABLES)}")
        table = self._root / _TABLES[split]
        paths: dict[str, Path] = {}
        clips = []
        for where, row in rows_of(table, _COLUMNS):
            video = row["video_id"]
            if video not in paths:
                paths[video] = self._video(inside(video, where), inside(row["participant_id"], where))
            clips.append(self._clip(where, row, paths[video]))
        good, self.left_out = readable(clips, self._broken, table)
        return good

    def _clip(self, where: str, row: Mapping[str, str], path: Path) -> ActionClip:
        start_s, stop_s = (_seconds(row[f"{side}_timestamp"], where) for side in ("start", "stop"))
        if stop_s <= start_s:
            raise UserError(f"{where}: the clip stops at {row['stop_timestamp']}, where it has not started")
        label = row["verb_class"]
        if not label.isdecimal() or int(label) >= VERBS:
            raise UserError(f"{where}: verb_class must be 0 to {VERBS - 1}, got {label!r}")
        return ActionClip(row["narration_id"], int(label), path, start_s, stop_s, self._rate)

    def _video(self, video: str, participant: str) -> Path:
        """Where the video is, or should be."""
        folders = (self._root / "videos", self._root / participant / "videos")
        places = [folder / f"{video}{suffix}" for folder in folders for suffix in (".MP4", ".mp4")]
        return next((place for place in places if place.is_file()), places[0])


def _seconds(stamp: str, where: str) -> float:
    match = re.fullmatch(r"(\d+):([0-5]\d):([0-5]\d(?:\.\d+)?)", stamp)
    if match is None:
        raise UserError(f"{where}: a timestamp is HH:MM:SS.ss, got {stamp!r}")
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
