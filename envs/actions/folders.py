"""Clips of your own, sorted into folders: `<root>/<split>/<class>/<clip>.mp4`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from envs.actions.broken import Broken, check_broken, readable
from envs.actions.clip import ActionClip, check_rate
from envs.footage.decoded import VIDEO_SUFFIXES
from eventful.errors import UserError


class ClassFolders:
    """The data set; classes are numbered in alphabetical order of all folders' names, whatever the split.

    Args:
        root: Folder with a folder for each split, with a folder for each class.
        rate: Frames per second at which frames are counted; None for each video's own.
        broken: Whether a video that cannot be decoded is an error, or is left out.

    Attributes:
        classes: Names of the classes.
        left_out: Videos of the split that was last asked for that cannot be decoded, and why.

    Raises:
        UserError: If there is no such folder, or an argument is none of those there are.
    """

    def __init__(self, root: str | Path, rate: float | None = None, broken: Broken = "error") -> None:
        check_rate(rate)
        check_broken(broken)
        self._root, self._rate, self._broken = Path(root), rate, broken
        self._splits = {place.name: _folders(place) for place in _folders(self._root)}
        self.classes = sorted({place.name for places in self._splits.values() for place in places})
        if not self.classes:
            raise UserError(f"{self._root} should have a folder for each split, with a folder for each class")
        self.left_out: Mapping[str, str] = {}

    def videos(self, split: str) -> list[ActionClip]:
        """The clips of a split, by class and name.

        Raises:
            UserError: If there is no such split, or it has no clips.
            VideoError: If a video cannot be decoded, unless such clips are left out.
        """
        if split not in self._splits:
            raise UserError(f"{self._root} has no split {split!r}; it has {', '.join(self._splits)}")
        clips = []
        for folder in self._splits[split]:
            label = self.classes.index(folder.name)
            for path in sorted(folder.iterdir()):
                if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith("."):
                    clips.append(ActionClip(f"{folder.name}/{path.name}", label, path, rate=self._rate))
        if not clips:
            raise UserError(f"{self._root / split} has no clips")
        good, self.left_out = readable(clips, self._broken, self._root / split)
        return good


def _folders(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    return sorted(entry for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))
