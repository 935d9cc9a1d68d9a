"""What becomes of videos that cannot be decoded: an error, or they are left out, counted and named."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from envs.actions.clip import ActionClip
from eventful.cli import one_line
from eventful.console.output import progress
from eventful.errors import UserError, VideoError

Broken = Literal["error", "skip"]
"""What becomes of clips whose video cannot be decoded."""

_log = logging.getLogger(__name__)


def check_broken(broken: str) -> None:
    """Refuses what is neither `error` nor `skip`.

    Raises:
        UserError: If it is neither.
    """
    if broken not in get_args(Broken):
        raise UserError(f"broken must be error or skip, got {broken!r}")


def readable(clips: Sequence[ActionClip], broken: Broken, source: Path) -> tuple[list[ActionClip], dict[str, str]]:
    """Opens the videos of clips and decodes the first frame of each.

    Args:
        clips: The clips.
        broken: Whether a video that cannot be decoded is an error, or its clips are left out.
        source: What lists the clips, for messages.

    Returns:
        Those that can be read, and what is wrong with each of the others, by name.

    Raises:
        VideoError: If a clip cannot be read and is not to be left out.
        UserError: If no clip is left.
    """
    good: list[ActionClip] = []
    bad: dict[str, str] = {}
    for clip in progress(clips, f"opening videos of {source.name}", unit="clip", leave=False):
        try:
            clip.num_frames  # noqa: B018 (opens the video)
            good.append(clip)
        except VideoError as error:
            if broken == "error":
                raise
            bad[clip.name] = one_line(error)
    if bad:
        first = next(iter(bad.values()))
        _log.warning("%s: %d of %d clips are left out; the first: %s", source, len(bad), len(clips), first)
    if not good:
        raise UserError(f"{source}: none of its {len(clips)} clips can be read")
    return good, bad
