"""Writes recorded clips to try commands on: one as a video file, or a split with its boxes in ImageNet VID's layout.

    python -m envs.doom.export --out clip.mp4
    python -m envs.doom.export --format vid --split test --count 4 --out FOLDER

`envs.vid.read_official(FOLDER, "test", classes=envs.doom.export.CLASSES)` reads the latter.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from envs.doom.clips import load_split
from envs.doom.labels import CLASS_NAMES
from envs.doom.scenes import split_named
from envs.task import Clip
from envs.vid import ClassList
from envs.vid.write import write_official
from eventful import cli
from eventful.console.options import Parser
from eventful.errors import UserError
from eventful.video.writer import VideoWriter

COMMAND = "python -m envs.doom.export"
EXAMPLES = (
    f"{COMMAND} --split test_maps --out clip.mp4",
    f"{COMMAND} --format vid --split test --count 4 --out doom_vid",
)

CLASSES = ClassList(CLASS_NAMES)
"""Annotations call the classes by their names."""


def main(argv: Sequence[str] | None = None) -> None:
    """Writes one clip of a split, or several with their boxes.

    Raises:
        SystemExit: Always; code 2 if there is no such split or clip, or a file cannot be written.
    """
    cli.run(COMMAND, _main, argv)


def _main(argv: Sequence[str]) -> None:
    parser = Parser(COMMAND, "Write recorded clips.", EXAMPLES)
    parser.add_argument("--format", choices=("video", "vid"), default="video", help="a video, or ImageNet VID's layout")
    parser.add_argument("--split", default="test")
    parser.add_argument("--clip", type=int, help="of a video: its number in the split, the first by default")
    parser.add_argument("--count", type=int, help="of the layout: number of clips, all of the split by default")
    parser.add_argument("--frames", type=int, default=64, help="frames of each clip")
    parser.add_argument("--step", type=int, default=2, help="tics, of which a second has 35, from frame to frame")
    parser.add_argument("--out", required=True, help="video file, or folder, to write")
    arguments = parser.parse_args(argv)
    wrong = "count" if arguments.format == "video" else "clip"
    if getattr(arguments, wrong) is not None:
        raise UserError(f"--{wrong} has no meaning with --format {arguments.format}")
    with cli.user_input(f"--split {arguments.split}"):
        count = _up_to_the_clip(arguments) if arguments.format == "video" else arguments.count
        clips = load_split(arguments.split, count, arguments.frames, arguments.step)
    if arguments.format == "video":
        _write_video(arguments.out, clips[-1])
    else:
        frames = write_official(arguments.out, arguments.split, clips, CLASSES)
        print(f"{arguments.out}: {frames} frames of {len(clips)} clips")


def _up_to_the_clip(arguments: argparse.Namespace) -> int:
    """How many clips of the split are needed: what is not there yet is recorded, which takes seconds a clip."""
    number, size = arguments.clip or 0, split_named(arguments.split).size
    if not 0 <= number < size:
        raise UserError(f"--clip {number}: split {arguments.split} has clips 0 to {size - 1}")
    return number + 1


def _write_video(path: str, clip: Clip) -> None:
    with VideoWriter(path, clip.fps) as writer:
        for frame_HWC in clip.frames_THWC:
            writer.write(frame_HWC.numpy())
    print(f"{path}: {len(clip)} frames of {clip.name}")


if __name__ == "__main__":
    main()
