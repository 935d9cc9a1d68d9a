"""Kinetics-400 (Kay et al. 2017).

    val.csv or labels.csv           the official table: label, youtube_id, time_start, time_end, split
    videos/<youtube_id>_<time_start, 6 digits>_<time_end, 6 digits>.mp4

Videos that are not there any more are left out, as are those that cannot be decoded; both are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from envs.actions.broken import Broken, check_broken, readable
from envs.actions.clip import ActionClip, check_rate
from envs.actions.table import rows_of
from envs.vid.files import inside
from eventful.cli import one_line
from eventful.errors import UserError

CLASSES = 400
RATE = 25.0

_COLUMNS = ("label", "youtube_id", "time_start", "time_end")


class Kinetics400:
    """The data set.

    Args:
        root: Folder with the tables and the videos.
        rate: Frames per second at which frames are counted.
        classes: File with the names of the classes, one a line, in the order of their numbers; None for the names in
            the table in alphabetical order.
        broken: Whether a video that cannot be decoded is an error, or is left out.

    Attributes:
        stride: Frames from one frame of a view to the next, as published.
        missing: Number of videos of the split that was last asked for that are not there.
        left_out: Videos of that split that cannot be decoded, and why.

    Raises:
        UserError: If an argument is none of those there are.
    """

    stride = 2

    def __init__(
        self, root: str | Path, rate: float = RATE, classes: str | Path | None = None, broken: Broken = "skip"
    ) -> None:
        check_rate(rate)
        check_broken(broken)
        self._root, self._rate, self._broken = Path(root), rate, broken
        self._listed = None if classes is None else Path(classes)
        self.missing = 0
        self.left_out: Mapping[str, str] = {}

    def videos(self, split: str) -> list[ActionClip]:
        """The videos of a split that are there and can be decoded, in the order of their ids.

        Raises:
            UserError: If there is no table of that split, it is damaged or names a class that there is not, or no video
                is left.
        """
        tables = [self._root / f"{split}.csv", self._root / "labels.csv"]
        table = next((place for place in tables if place.is_file()), tables[0])
        rows = rows_of(table, _COLUMNS)
        labels = self._labels(table, {row["label"] for _, row in rows})
        clips = []
        for where, row in sorted(rows, key=lambda entry: entry[1]["youtube_id"]):
            if row["label"] not in labels:
                raise UserError(f"{where}: there is no class {row['label']!r} in {self._listed}")
            name = "_".join(
                (inside(row["youtube_id"], where), *(_digits(row[side], where) for side in ("time_start", "time_end")))
            )
            clips.append(ActionClip(name, labels[row["label"]], self._root / f"videos/{name}.mp4", rate=self._rate))
        found = [clip for clip in clips if clip.path.is_file()]
        self.missing = len(clips) - len(found)
        if not found:
            raise UserError(f"{table}: none of its {len(clips)} videos is there; {clips[0].path} would be one")
        good, self.left_out = readable(found, self._broken, table)
        return good

    def _labels(self, table: Path, named: set[str]) -> dict[str, int]:
        if self._listed is None:
            if len(named) != CLASSES:
                raise UserError(
                    f"{table} names {len(named)} classes, Kinetics-400 has {CLASSES}: "
                    "give a file with their names as classes"
                )
            names = sorted(named)
        else:
            try:
                names = [line.strip() for line in self._listed.read_text().splitlines() if line.strip()]
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"classes {self._listed} cannot be read: {one_line(error)}") from error
        return {name: label for label, name in enumerate(names)}


def _digits(seconds: str, where: str) -> str:
    if not seconds.isdecimal():
        raise UserError(f"{where}: time_start and time_end are whole seconds, got {seconds!r}")
    return f"{int(seconds):06d}"
