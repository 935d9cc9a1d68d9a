"""Whether a command would write one file twice, or over what it reads, whatever the file is called."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from eventful.errors import UserError


def refuse_same_files(
    video: str,
    pictures: Sequence[Path],
    weights: str | None,
    out: str | None,
    json: str | None,
    beside: Sequence[Path] = (),
) -> None:
    """Looks at the files of `eventful-infer`.

    Args:
        video: Video file, folder of images, address or camera.
        pictures: Pictures of the folder; empty for anything else.
        weights: Weights file of the model, or None.
        out: Video to write, or None.
        json: File of results to write, or None.
        beside: Pictures that are written beside the video.

    Raises:
        UserError: If two of them are one file, one of which is written.
    """
    if out and json and _is_same_file(out, json):
        raise UserError(f"--out and --json are one file, {json}; give each its own")
    for path in beside:
        for option, other in (("--out", out), ("--json", json)):
            if other and _is_same_file(str(path), other):
                raise UserError(f"{option} {other} is a picture that --compare writes; give it another name")
    read: dict[str, list[str | None]] = {"the video itself": [video], "the weights of the model": [weights]}
    read["a frame of the video"] = [str(path) for path in pictures]
    for result in filter(None, (out, json, *map(str, beside))):
        for what, files in read.items():
            if any(file and _is_same_file(result, file) for file in files):
                raise UserError(f"{result} is {what}; write the results to another file")


def _is_same_file(one: str, other: str) -> bool:
    """Whether two paths lead to one file, by links of any kind; the file need not exist yet."""
    if os.path.exists(one) and os.path.exists(other):
        return os.path.samefile(one, other)
    return os.path.realpath(one) == os.path.realpath(other)
