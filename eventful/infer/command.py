"""The command: arguments in, annotated video and JSON lines out, written as results come."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

import policies
from eventful import cli
from eventful.checks.extras import require
from eventful.checks.outputs import refuse_same_files
from eventful.console.output import progress
from eventful.errors import UserError
from eventful.infer.arguments import parser
from eventful.infer.compare import Comparison, side_pictures, write_picture
from eventful.infer.json_lines import open_lines, write_line
from eventful.infer.on_video import prepare, run_frames
from eventful.live.pace import Pace
from eventful.live.preview import Preview
from eventful.live.reconnect import reconnecting
from eventful.pipeline.heap import settle_heap
from eventful.pipeline.read_ahead import read_ahead
from eventful.pipeline.time_budget import TimeBudget
from eventful.pipeline.write_behind import WriteBehind, spare_processor
from eventful.user_code import policy_class
from eventful.video.animation import SUFFIXES, AnimationWriter
from eventful.video.frames import Frame, FrameReader, in_tubelets
from eventful.video.overlay import annotate
from eventful.video.reader import images_in, read_frames
from eventful.video.run_summary import Summary
from eventful.video.runner import FrameResult, VideoRunner
from eventful.video.sound import Sound, sound_of
from eventful.video.writer import VideoWriter

COMMAND = "eventful-infer"


def main(argv: Sequence[str] | None = None) -> None:
    """The command `eventful-infer`."""
    cli.run(COMMAND, _main, argv)


def _main(argv: Sequence[str]) -> None:
    args = parser(COMMAND).parse_args(argv)
    pictures = images_in(Path(args.video)) if os.path.isdir(args.video) else []
    beside = () if args.compare is None or args.out is None else side_pictures(args.out)
    json = None if args.json == "-" else args.json
    refuse_same_files(args.video, pictures, args.weights, args.out, json, beside)
    reader = reconnecting(lambda: read_frames(args.video, args.source_fps), args.on_error)
    policy = args.heuristic or args.policy
    given = {"model": args.model, "weights": args.weights, "head": args.head, "image_size": args.size}
    task_options = {key: value for key, value in given.items() if value is not None}
    options = {} if args.granularity is None else {"granularity": args.granularity}
    if args.policy is not None:
        with cli.user_input(f"policy {policy}"):
            policy = policies.load(policy, policy_class(args.policy_class, "--policy-class"))
    how = (args.device, args.dtype, args.dense_check, args.trust)
    with Preview() if args.preview else contextlib.nullcontext() as preview:
        runner = prepare(policy, args.task, task_options, options, *how)
        turned = args.fps is not None or args.budget is not None or args.budget_schedule
        if turned and args.compare is None and runner.model.policy.budget is None:
            raise UserError(f"policy {runner.model.policy.name} has no budget to set: leave out what sets it")
        settle_heap()
        reader = read_ahead(in_tubelets(reader, runner.tubelet))
        if args.compare is not None:
            compare(reader, runner, args, preview)
            return
        schedule = args.budget_schedule or ([(0, args.budget)] if args.budget is not None else None)
        pace = None if args.fps is None else Pace(args.fps)
        results = run_frames(reader, runner, schedule, args.max_frames, pace)
        _write(results, reader, runner, args, pace, preview)


def compare(reader: FrameReader, runner: VideoRunner, args: argparse.Namespace, preview: Preview | None = None) -> None:
    """Runs several policies side by side; whatever ends the run, what was written is finished and summed up.

    Raises:
        UserError: For settings that do not go with a comparison.
    """
    budget = args.budget if args.budget is not None else runner.model.policy.budget
    if args.fps is not None or args.budget_schedule or not isinstance(budget, float):
        raise UserError("--compare needs one budget for all: --budget SHARE, and neither --fps nor --budget-schedule")
    comparison = Comparison(runner, args.compare, budget, args.dense_check)
    if args.out is not None:
        require("--compare with --out", "plot")
    with contextlib.ExitStack() as stack:
        stack.callback(
            lambda: print("\n".join(comparison.table()), file=sys.stderr if args.json == "-" else sys.stdout)
        )
        video = _writer(args.out, reader.fps, None, stack)
        lines = open_lines(args.json, stack)
        bar = stack.enter_context(progress(total=_expected(reader, args), unit="frame", leave=False))
        for results in comparison.run(reader, args.max_frames):
            for name, result in results.items():
                if lines is not None:
                    write_line(result, lines, policy=name)
            if video is not None or preview is not None:
                panels = comparison.panels(results, runner.task.class_names, args.overlay)
                if video is not None:
                    video.write(panels, next(iter(results.values())).time)
                if preview is not None and preview.show(panels).ended:
                    break
            bar.update()
    heat = comparison.heat_map()
    if args.out is not None and heat is not None:
        updates, motion = side_pictures(args.out)
        write_picture(updates, heat)
        comparison.write_curve(motion)


def _write(
    results: Iterator[FrameResult],
    reader: FrameReader,
    runner: VideoRunner,
    args: argparse.Namespace,
    pace: Pace | None,
    preview: Preview | None,
) -> None:
    """Writes and shows results as they come; whatever ends the run, what was written is finished and summed up.

    With a spare processor, drawing and writing are done while the next frame runs; what is shown is drawn before.
    """
    summary, beside, names = Summary(), TimeBudget(), runner.task.class_names
    messages = sys.stderr if args.json == "-" else sys.stdout
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: print("\n".join(summary.lines(reader, beside.seconds)), file=messages))
        if pace is not None:
            stack.callback(lambda: print(pace.summary(), file=messages))
        sound = sound_of(reader.origin) if args.out and not _is_animation(args.out) else None
        stack.callback(_say_what_lacks, args.out, sound, messages)
        video = _writer(args.out, reader.fps, sound, stack)
        lines = open_lines(args.json, stack)
        bar = stack.enter_context(progress(total=_expected(reader, args), unit="frame", leave=False))
        behind = stack.enter_context(WriteBehind(spare_processor(runner.device)))

        def draw(result: FrameResult) -> Frame:
            with beside.spent("drawing"):
                return picture(result, names, args.overlay)

        def write(result: FrameResult, drawn: Frame | None, video: VideoWriter | AnimationWriter) -> None:
            drawn = draw(result) if drawn is None else drawn
            with beside.spent("writing"):
                video.write(drawn, result.time)

        for result in results:
            summary.add(result)
            if lines is not None:
                write_line(result, lines)
            drawn = None if preview is None else draw(result)
            if video is not None:
                behind.do(partial(write, result, drawn, video))
            bar.update()
            bar.set_postfix_str(f"MACs {result.macs_ratio:.1%}", refresh=False)
            if preview is not None and drawn is not None:
                # Under --fps the budget is not for keys to say.
                asked = preview.show(drawn, result.budget if pace is None else None)
                if asked.budget is not None:
                    runner.model.policy.budget = asked.budget
                for clock in (summary, pace):
                    if clock is not None:
                        clock.leave_out(asked.paused)
                if asked.ended:
                    break


def picture(result: FrameResult, names: Sequence[str], overlay: bool) -> Frame:
    """A frame with its predictions, and with the token mask and a header if `overlay`; uint8 RGB."""
    if not overlay:
        return annotate(result.frame, result.predictions, class_names=names)
    asked = "" if result.budget is None else f" | budget {result.budget:.1%}"
    what = "flush" if result.flush else f"{result.updated:.1%} of tokens updated"
    header = f"frame {result.index} | MACs {result.macs_ratio:.1%} of dense{asked} | {what}"
    # On a flush everything is new; a tint all over would only hide the picture.
    return annotate(result.frame, result.predictions, None if result.flush else result.rate_RC, header, names)


def _expected(reader: FrameReader, args: argparse.Namespace) -> int | None:
    """How many frames there will be; None where nobody knows."""
    return min((n for n in (reader.count, args.max_frames) if n is not None), default=None)


def _is_animation(path: str) -> bool:
    return Path(path).suffix.lower() in SUFFIXES


def _writer(
    path: str | None, fps: float, sound: Sound | None, stack: contextlib.ExitStack
) -> VideoWriter | AnimationWriter | None:
    """What writes the frames, finished by the stack; None where none are to be written."""
    if path is None:
        return None
    if _is_animation(path):
        return stack.enter_context(contextlib.closing(AnimationWriter(path, fps)))
    return stack.enter_context(VideoWriter(path, fps, sound))


def _say_what_lacks(path: str, sound: Sound | None, messages: TextIO) -> None:
    if sound is not None and sound.left_out is not None:
        print(f"{path} lacks sound: {sound.left_out}", file=messages)
