"""Records clips of verbs as video files in a folder for each verb, which `envs.actions.ClassFolders` reads.

    python -m envs.doom.export_verbs --split train --count 800 --out FOLDER

Files that are there already are kept: a recording that was interrupted goes on, and a larger count adds to it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from envs.doom.record import TICS_PER_SECOND
from envs.doom.verbs import VERBS, VerbClip, record_verb, verb_clips
from eventful import cli
from eventful.console.options import Parser
from eventful.console.output import progress
from eventful.errors import UserError
from eventful.video.writer import VideoWriter

COMMAND = "python -m envs.doom.export_verbs"


def write_clips(folder: Path, clips: Sequence[VerbClip], frames: int = 32, step: int = 2, workers: int = 2) -> int:
    """Records clips into `folder/<verb>/<name>.mp4`.

    Args:
        folder: Folder of the split.
        clips: What to record.
        frames: Number of frames of each clip.
        step: Tics (1/35 s) from frame to frame.
        workers: Number of games that run at the same time.

    Returns:
        Number of clips that were recorded; the others were there.

    Raises:
        UserError: If a number is not positive.
        OSError: If a file cannot be written.
    """
    if min(frames, step, workers) < 1:
        raise UserError(f"frames, step and workers must be positive, got {frames}, {step}, {workers}")
    for verb in VERBS:
        (folder / verb).mkdir(parents=True, exist_ok=True)
    paths = {folder / clip.verb / f"{clip.name}-{frames}x{step}.mp4": clip for clip in clips}
    missing = [(path, clip) for path, clip in paths.items() if not path.exists()]
    # Threads are enough: each game is a process of its own.
    with ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(_write, path, clip, frames, step) for path, clip in missing]
        try:
            for job in progress(jobs, f"recording {folder.name}", unit="clip"):
                job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return len(missing)


def main(argv: Sequence[str] | None = None) -> None:
    """Records clips of a split.

    Raises:
        SystemExit: Always; code 2 if there is no such split, or a file cannot be written.
    """
    cli.run(COMMAND, _main, argv)


def _main(argv: Sequence[str]) -> None:
    parser = Parser(COMMAND, "Record clips of what a player does.", [f"{COMMAND} --split test --count 80 --out clips"])
    parser.add_argument("--split", default="test", help="train, val, test or test_maps")
    parser.add_argument("--count", type=int, default=80, help="number of clips, of all verbs together")
    parser.add_argument("--frames", type=int, default=32, help="frames of a clip")
    parser.add_argument("--step", type=int, default=2, help="tics (1/35 s) from frame to frame")
    parser.add_argument("--workers", type=int, default=2, help="games at the same time")
    parser.add_argument("--out", required=True, help="folder of all splits")
    given = parser.parse_args(argv)
    with cli.user_input(f"--split {given.split} --count {given.count}"):
        clips = verb_clips(given.split, given.count)
    folder = Path(given.out) / given.split
    recorded = write_clips(folder, clips, given.frames, given.step, given.workers)
    print(f"{folder}: {recorded} clips recorded, {len(clips) - recorded} were there")


def _write(path: Path, clip: VerbClip, frames: int, step: int) -> None:
    """The file takes its name when it is whole; until then it is hidden."""
    part = path.with_name(f".{os.getpid()}-{path.name}")
    with VideoWriter(part, TICS_PER_SECOND / step) as writer:
        for frame_HWC in record_verb(clip, frames, step):
            writer.write(frame_HWC)
    os.replace(part, path)


if __name__ == "__main__":
    main()
