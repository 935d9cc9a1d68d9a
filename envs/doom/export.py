"""Writes a recorded clip as a video file, to try commands on: `python -m envs.doom.export --out clip.mp4`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from envs.doom.clips import load_split
from eventful import cli
from eventful.errors import UserError
from eventful.video.writer import VideoWriter


def main(argv: Sequence[str] | None = None) -> None:
    """Writes one clip of a split.

    Raises:
        SystemExit: Always; code 2 if there is no such split or clip, or the file cannot be written.
    """
    cli.run("envs.doom.export", _main, argv)


def _main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="envs.doom.export", description="Write a recorded clip as a video file.")
    parser.add_argument("--split", default="test")
    parser.add_argument("--clip", type=int, default=0, help="its number in the split")
    parser.add_argument("--out", required=True, help="video file to write")
    arguments = parser.parse_args(argv)
    with cli.user_input("--split"):
        clips = load_split(arguments.split)
    if not 0 <= arguments.clip < len(clips):
        raise UserError(f"--clip {arguments.clip}: split {arguments.split} has clips 0 to {len(clips) - 1}")
    clip = clips[arguments.clip]
    with VideoWriter(arguments.out, clip.fps) as writer:
        for frame_HWC in clip.frames_THWC:
            writer.write(frame_HWC.numpy())
    print(f"{arguments.out}: {len(clip)} frames of {clip.name}")


if __name__ == "__main__":
    main()
