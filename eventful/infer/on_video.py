"""Builds the model that a policy is for, and runs it on video, frame by frame."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

import policies
from eventful import cli
from eventful.checks.backbone import backbone_hash, warn_of_other_backbone
from eventful.devices import device_named, dtype_named
from eventful.errors import UserError
from eventful.infer.arguments import BudgetSchedule
from eventful.live.pace import Pace
from eventful.live.reconnect import OnError, reconnecting
from eventful.model import wrap
from eventful.pipeline.read_ahead import read_ahead
from eventful.tasks import Task, clip_options, load_task, nearest, recorded_task, saliency_of
from eventful.trust import options_of_checkpoint
from eventful.video.frames import FrameReader, in_tubelets
from eventful.video.reader import read_frames
from eventful.video.runner import FrameResult, VideoRunner
from policies import Provenance, TrainablePolicy
from policies.protocol import Policy

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
    trust: bool = False,
    on_error: OnError = "stop",
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
        trust: Whether files that the checkpoint names are opened although it was not trained here.
        on_error: What a live source does that breaks (`eventful.live.reconnect`): `stop`, `flush` or `skip`.

    Yields:
        A `FrameResult` for each frame, as soon as it is there.

    Raises:
        UserError: If the pieces do not fit together; the message says which and what would fit.
        VideoError: Where the video breaks, after the results of the frames before that.
        OSError: If a file is missing.
    """
    runner = prepare(policy, task, task_options, options, device, dtype, dense_every, trust)
    schedule = [(0, budget)] if isinstance(budget, int | float) else budget
    if rate is not None and schedule:
        raise UserError("a rate turns the budget itself: give rate or budget, not both")
    frames = read_ahead(in_tubelets(reconnecting(lambda: read_frames(video), on_error), runner.tubelet))
    return run_frames(frames, runner, schedule, max_frames, None if rate is None else Pace(rate))


def prepare(
    policy: str | Path | Policy,
    task: str | Task | None = None,
    task_options: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    device: str | None = None,
    dtype: str = "float32",
    dense_every: int = 0,
    trust: bool = False,
) -> VideoRunner:
    """Builds the model that a policy is for, with the policy in it; takes the arguments of `run`."""
    if not isinstance(policy, Policy):
        with cli.user_input(f"policy {policy}"):
            policy = policies.load(policy)
    provenance = policy.provenance if isinstance(policy, TrainablePolicy) else Provenance()
    used: Mapping[str, Any] = {}
    ready = not (task is None or isinstance(task, str))
    if task is None or isinstance(task, str):
        task, used = _task(task, task_options or {}, provenance, trust)
    if provenance.backbone:
        warn_of_other_backbone(provenance, backbone_hash(task.model), used)
    with cli.user_input("policy"):
        run = {"saliency": saliency_of(task), **provenance.options, **(options or {})}
        unknown = [name for name in run if name not in _OPTIONS]
        if unknown:
            raise UserError(f"eventful.wrap has no option {unknown[0]!r}{nearest(unknown[0], _OPTIONS)}")
        vit = task.model
        if ready and next(vit.parameters()).dtype != dtype_named(dtype):
            # The caller's own model must not come out of this with rounded weights.
            vit = copy.deepcopy(vit)
        model = wrap(vit, policy, **run)
    place = device_named(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return VideoRunner(model.to(place, dtype_named(dtype)), task, dense_every)


def run_frames(
    frames: FrameReader,
    runner: VideoRunner,
    schedule: BudgetSchedule | None = None,
    max_frames: int | None = None,
    pace: Pace | None = None,
) -> Iterator[FrameResult]:
    """Runs frames one by one, and sets the policy's budget where the schedule changes it, or as the pace asks.

    When the run ends, the policy has the budget again that it came with.
    """
    policy = runner.model.policy
    changes = dict(_checked(schedule or ([] if pace is None else [(0, pace.budget)]), policy))
    done, cuts = perf_counter(), frames.cuts
    asked = done
    with _budget_of_before(policy) if changes else nullcontext():
        for index, (frame, time) in enumerate(itertools.islice(frames.timed(), max_frames)):
            waited = perf_counter() - asked
            if frames.cuts != cuts:
                runner.flush()
                cuts = frames.cuts
            if index in changes:
                policy.budget = changes[index]
            if frames.live:
                # A camera is waited for; a file is read as fast as it can be, and that is part of the work.
                done = perf_counter()
            result = runner.step(frame, time)
            yield replace(result, waited=waited)
            asked = perf_counter()
            started, done = done, perf_counter()
            if pace is not None:
                pace.note(done - started, result.macs_ratio, result.flush)
                policy.budget = pace.budget


@contextmanager
def _budget_of_before(policy: Policy) -> Iterator[None]:
    """Gives a policy back the budget that it has now."""
    kept = policy.budget
    try:
        yield
    finally:
        if kept is not None:
            policy.budget = kept


def _checked(schedule: BudgetSchedule, policy: Policy) -> BudgetSchedule:
    if schedule and policy.budget is None:
        raise UserError(f"policy {policy.name} has no budget to set")
    for frame, budget in schedule:
        if frame < 0 or not 0 < budget <= 1:
            raise UserError(f"a budget is a share of the dense MACs in (0, 1], from a frame on; got {frame}:{budget}")
    return schedule


def _task(
    name: str | None, given: Mapping[str, Any], trained: Provenance, trust: bool
) -> tuple[Task, Mapping[str, Any]]:
    """The named task, or the one of the checkpoint, and its options; the checkpoint's hold for its own task only."""
    if not (name or trained.task):
        raise UserError("the policy does not say which task it was trained for: give --task NAME")
    name = name or recorded_task(trained.task)
    known: dict[str, Any] = {}
    if name == trained.task:
        known = options_of_checkpoint(trained, given, trust, "--trust", but=clip_options(name))
    try:
        return load_task(name, **known, **given), {**known, **given}
    except FileNotFoundError as error:
        raise UserError(f"{cli.one_line(error)} (the checkpoint's own; --weights FILE replaces it)") from error
