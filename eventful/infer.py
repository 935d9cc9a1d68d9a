"""Runs a policy checkpoint on live or stored video: `eventful-infer VIDEO --policy DIR --out OUT.mp4`.

In Python:

>>> import eventful.infer
>>> for result in eventful.infer.run("street.mp4", "runs/demo/policy", budget=0.1):
...     print(result.index, result.macs_ratio, result.predictions)

The video is streamed in bounded memory, and results are written as they come: when a video breaks at some frame, those
of the frames before it are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import itertools
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

import torch
from tqdm import tqdm

import policies
from eventful import cli
from eventful.checks.outputs import refuse_same_files
from eventful.devices import device_named, dtype_named
from eventful.errors import UserError
from eventful.infer_arguments import BudgetSchedule, parser
from eventful.model import wrap
from eventful.tasks import Task, load_task, nearest, recorded_task, saliency_of
from eventful.user_code import policy_class
from eventful.video.frames import FrameReader, in_tubelets
from eventful.video.overlay import annotate
from eventful.video.pace import Pace
from eventful.video.reader import images_in, read_frames
from eventful.video.run_summary import Summary
from eventful.video.runner import FrameResult, VideoRunner
from eventful.video.sound import Sound, sound_of
from eventful.video.writer import VideoWriter
from policies import Provenance, TrainablePolicy
from policies.protocol import Policy

COMMAND = "eventful-infer"
_OPTIONS = [name for name in inspect.signature(wrap).parameters if name not in ("vit", "policy")]


def run(
    video: str | Path,
    policy: str | Path | Policy,
    task: str | Task | None = None,
    task_options: Mapping[str, Any] | None = None,
    budget: float | BudgetSchedule | None = None,
    options: Mapping[str, Any] | None = None,
    device: str | None = None,
    dtype: str = "float32",
    dense_every: int = 0,
    max_frames: int | None = None,
    rate: float | None = None,
) -> Iterator[FrameResult]:
    """Runs a policy on a video.

    Args:
        video: Video file, stream address, camera device, or folder of images.
        policy: Folder of a checkpoint, name of an installed one such as `doom` or of one on the model hub, or a policy
            (those of your own classes: `policies.load(folder, MyClass)`).
        task: Name of a task, `MODULE:CLASS`, or a task; by default the installed one that the checkpoint was trained
            with.
        task_options: Options of the task that replace those of the checkpoint's training.
        budget: Share of the dense MACs, or a schedule [(first frame, budget), ...]; the policy's own if None.
        options: Options of `eventful.wrap` that replace those of the checkpoint's training.
        device: Name of the device, such as `cuda:0`; if None, the first GPU if there is one, else the CPU.
        dtype: Data type of weights and frames: `float32`, `float16` or `bfloat16`.
        dense_every: Number of frames from one comparison with the dense model to the next; 0 for none.
        max_frames: Largest number of frames; all if None.
        rate: Frames per second to hold by turning the budget at every frame; excludes `budget`. None for none.

    Yields:
        A `FrameResult` for each frame, as soon as it is there.

    Raises:
        UserError: If the pieces do not fit together; the message says which and what would fit.
        VideoError: Where the video breaks, after the results of the frames before that.
        OSError: If a file is missing.
    """
    runner = prepare(policy, task, task_options, options, device, dtype, dense_every)
    schedule = [(0, budget)] if isinstance(budget, int | float) else budget
    if rate is not None and schedule:
        raise UserError("a rate turns the budget itself: give rate or budget, not both")
    frames = in_tubelets(read_frames(video), runner.tubelet)
    return run_frames(frames, runner, schedule, max_frames, None if rate is None else Pace(rate))


def prepare(
    policy: str | Path | Policy,
    task: str | Task | None = None,
    task_options: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    device: str | None = None,
    dtype: str = "float32",
    dense_every: int = 0,
) -> VideoRunner:
    """Builds the model that a policy is for, with the policy in it; takes the arguments of `run`."""
    if not isinstance(policy, Policy):
        with cli.user_input(f"policy {policy}"):
            policy = policies.load(policy)
    provenance = policy.provenance if isinstance(policy, TrainablePolicy) else Provenance()
    if task is None or isinstance(task, str):
        task = _task(task, task_options or {}, provenance)
    with cli.user_input("policy"):
        run = {"saliency": saliency_of(task), **provenance.options, **(options or {})}
        unknown = [name for name in run if name not in _OPTIONS]
        if unknown:
            raise UserError(f"eventful.wrap has no option {unknown[0]!r}{nearest(unknown[0], _OPTIONS)}")
        model = wrap(task.model, policy, **run)
    place = device_named(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return VideoRunner(model.to(place, dtype_named(dtype)), task, dense_every)


def run_frames(
    frames: FrameReader,
    runner: VideoRunner,
    schedule: BudgetSchedule | None = None,
    max_frames: int | None = None,
    pace: Pace | None = None,
) -> Iterator[FrameResult]:
    """Runs frames one by one, and sets the policy's budget where the schedule changes it, or as the pace asks."""
    policy = runner.model.policy
    changes = dict(_checked(schedule or ([] if pace is None else [(0, pace.budget)]), policy))
    done = perf_counter()
    for index, (frame, time) in enumerate(itertools.islice(frames.timed(), max_frames)):
        if index in changes:
            policy.budget = changes[index]
        if frames.live:
            # A camera is waited for; a file is read as fast as it can be, and that is part of the work.
            done = perf_counter()
        result = runner.step(frame, time)
        yield result
        started, done = done, perf_counter()
        if pace is not None:
            pace.note(done - started, result.macs_ratio, result.flush)
            policy.budget = pace.budget


def _checked(schedule: BudgetSchedule, policy: Policy) -> BudgetSchedule:
    if schedule and policy.budget is None:
        raise UserError(f"policy {policy.name} has no budget to set")
    for frame, budget in schedule:
        if frame < 0 or not 0 < budget <= 1:
            raise UserError(f"a budget is a share of the dense MACs in (0, 1], from a frame on; got {frame}:{budget}")
    return schedule


def _task(name: str | None, overrides: Mapping[str, Any], trained: Provenance) -> Task:
    """The named task, or the one of the checkpoint; options of the checkpoint hold for its own task only."""
    if not (name or trained.task):
        raise UserError("the policy does not say which task it was trained for: give --task NAME")
    name = name or recorded_task(trained.task)
    try:
        return load_task(name, **{**(trained.task_options if name == trained.task else {}), **overrides})
    except FileNotFoundError as error:
        raise UserError(f"{cli.one_line(error)} (the checkpoint's own; --weights FILE replaces it)") from error


def main(argv: Sequence[str] | None = None) -> None:
    """The command `eventful-infer`."""
    cli.run(COMMAND, _main, argv)


def _main(argv: Sequence[str]) -> None:
    args = parser(COMMAND).parse_args(argv)
    pictures = images_in(Path(args.video)) if os.path.isdir(args.video) else []
    refuse_same_files(args.video, pictures, args.weights, args.out, None if args.json == "-" else args.json)
    reader = read_frames(args.video, args.source_fps)
    policy = args.heuristic or args.policy
    given = {"model": args.model, "weights": args.weights, "image_size": args.size}
    task_options = {key: value for key, value in given.items() if value is not None}
    options = {} if args.granularity is None else {"granularity": args.granularity}
    if args.policy is not None:
        with cli.user_input(f"policy {policy}"):
            policy = policies.load(policy, policy_class(args.policy_class, "--policy-class"))
    runner = prepare(policy, args.task, task_options, options, args.device, args.dtype, args.dense_check)
    schedule = args.budget_schedule or ([(0, args.budget)] if args.budget is not None else None)
    pace = None if args.fps is None else Pace(args.fps)
    reader = in_tubelets(reader, runner.tubelet)
    results = run_frames(reader, runner, schedule, args.max_frames, pace)
    _write(results, reader, runner.task.class_names, args, pace)


def _write(
    results: Iterator[FrameResult],
    reader: FrameReader,
    names: Sequence[str],
    args: argparse.Namespace,
    pace: Pace | None = None,
) -> None:
    """Writes results as they come; whatever ends the run, what was written is finished and summed up."""
    summary = Summary()
    total = min((n for n in (reader.count, args.max_frames) if n is not None), default=None)
    messages = sys.stderr if args.json == "-" else sys.stdout
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: print("\n".join(summary.lines(reader.origin.skipped)), file=messages))
        if pace is not None:
            stack.callback(lambda: print(pace.summary(), file=messages))
        sound = sound_of(reader.origin) if args.out else None
        stack.callback(_say_what_lacks, args.out, sound, messages)
        video = stack.enter_context(VideoWriter(args.out, reader.fps, sound)) if args.out else None
        lines = _open_lines(args.json, stack)
        # `disable=None`: no progress where stderr is no terminal.
        progress = stack.enter_context(tqdm(total=total, unit="frame", dynamic_ncols=True, leave=False, disable=None))
        for result in results:
            summary.add(result)
            if lines is not None:
                _write_line(json.dumps(record(result), allow_nan=False), lines)
            if video is not None:
                video.write(picture(result, names, args.overlay), result.time)
            progress.update()
            progress.set_postfix_str(f"MACs {result.macs_ratio:.1%}", refresh=False)


def record(result: FrameResult) -> dict[str, Any]:
    """A frame's result as one JSON object; numbers that are not finite, which JSON has not, are null."""
    values: dict[str, Any] = {
        "frame": result.index,
        "time": None if result.time is None else round(result.time, 6),
        "flush": result.flush,
        "macs": result.macs,
        "macs_ratio": round(result.macs_ratio, 6),
        "budget": result.budget,
        "updated": round(result.updated, 6),
        "milliseconds": round(1000 * result.seconds, 3),
        "predictions": result.predictions,
    }
    if result.dense is not None:
        values["dense"] = {
            "distance": result.dense.distance,
            "worst": result.dense.worst,
            "milliseconds": round(1000 * result.dense.seconds, 3),
        }
    finite: dict[str, Any] = _finite(values)
    return finite


def _finite(value: Any) -> Any:
    """Plain data with None in place of NaN and infinities."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def picture(result: FrameResult, names: Sequence[str], overlay: bool) -> Any:
    """A frame with its predictions, and with the token mask and a header if `overlay`; uint8 RGB."""
    if not overlay:
        return annotate(result.frame, result.predictions, class_names=names)
    asked = "" if result.budget is None else f" | budget {result.budget:.1%}"
    what = "flush" if result.flush else f"{result.updated:.1%} of tokens updated"
    header = f"frame {result.index} | MACs {result.macs_ratio:.1%} of dense{asked} | {what}"
    # On a flush everything is new; a tint all over would only hide the picture.
    return annotate(result.frame, result.predictions, None if result.flush else result.rate_RC, header, names)


def _write_line(line: str, file: TextIO) -> None:
    try:
        print(line, file=file, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        # A full disk, whose errors name no file. The line stays in the buffer: closing would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
        raise UserError(f"{file.name} cannot be written: {error.strerror}") from error


def _say_what_lacks(path: str, sound: Sound | None, messages: TextIO) -> None:
    if sound is not None and sound.left_out is not None:
        print(f"{path} lacks sound: {sound.left_out}", file=messages)


def _open_lines(path: str | None, stack: contextlib.ExitStack) -> TextIO | None:
    if path is None:
        return None
    if path == "-":
        return sys.stdout
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return stack.enter_context(open(path, "w", encoding="utf-8"))


if __name__ == "__main__":
    main()
