"""The settings that choose a task, in all commands that need one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, TypeVar

from envs.task import VideoTask
from eventful.checks.ranges import setting
from eventful.errors import UserError
from eventful.tasks import load_task

WHERE_AND_HOW = ("out", "device", "threads")
"""Keys that do not change what is computed; a command line that is recorded leaves them out."""


@dataclass
class TaskConfig:
    """The keys that choose a task; to be inherited by the configs of the commands.

    Options belong to the task: `task_options.NAME=VALUE` gives any of them, and the keys here are short for those of
    the tasks that take them. A task refuses what it does not take.

    Attributes:
        task: Name of an installed task (`doom`, `distill`, `follow`, `vid`, `actions`), or a class of your own,
            `MODULE:CLASS`.
        video: Video file, folder of images or folder of videos (distill, follow).
        model: Name of the timm model (distill, follow), or `hf:NAME` of a vision tower of transformers (distill).
        weights: Weights file of the model, .safetensors or .pth, or folder of a model of transformers; downloaded by
            name if not given (distill, follow), or what the task says of its weights (vid, actions).
        head: Function of your own, `MODULE:FUNCTION`, of the model's final tokens, in place of its head: the damage is
            what it sees (distill).
        image_size: Height and width of the model's input in pixels, as [H,W]; the model's own if not given (distill,
            follow).
        train_frames: Range of frames to train on, `first-last`, last included (distill, follow).
        test_frames: Range of frames to evaluate on, `first-last`, last included (distill, follow).
        clip_length: Number of frames of a clip (distill, follow).
        box: Box [x1,y1,x2,y2] around what is to be followed, in pixels of the first training frame (follow).
        distractor: Motion that is added to the footage: `none`, `picture` or `shake` (follow).
        task_options: Any other options of the task, as `task_options.NAME=VALUE`.
    """

    task: str = "doom"
    video: str | None = None
    model: str | None = None
    weights: str | None = None
    head: str | None = None
    image_size: list[int] | None = setting(None, "[1, 16384]")
    train_frames: str | None = None
    test_frames: str | None = None
    clip_length: int | None = setting(None, "[2, 1e6]")
    box: list[float] | None = None
    distractor: str | None = None
    task_options: dict[str, Any] = field(default_factory=dict)


AnyConfig = TypeVar("AnyConfig", bound=TaskConfig)


def task_options(config: TaskConfig) -> dict[str, Any]:
    """The options that a config gives to its task: plain data, fit for a checkpoint's provenance.

    Raises:
        UserError: If an option is given in both ways, with different values.
    """
    names = [f.name for f in dataclasses.fields(TaskConfig) if f.name not in ("task", "task_options")]
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    for name, value in given.items():
        other = config.task_options.get(name, value)
        if other != value:
            raise UserError(f"{name}={value} and task_options.{name}={other} are one option: give it once")
    return given | config.task_options


def make_task(config: TaskConfig) -> VideoTask:
    """Builds the task that a config names.

    Raises:
        UserError: If there is no such task, or it does not take an option that is given.
        OSError: If a file that it needs is missing.
    """
    return load_task(config.task, **task_options(config))


def with_task(config: AnyConfig, task: VideoTask | None) -> AnyConfig:
    """The config with the name of a task that is given ready-made; as it is for None.

    Raises:
        UserError: If the config names another task, or options, which are for tasks given by name.
    """
    if task is None:
        return config
    options = task_options(config)
    if options:
        raise UserError(f"{', '.join(options)}: options are for a task given by name, but the task itself is given")
    if config.task not in ("", TaskConfig.task, task.name):
        raise UserError(f"task={config.task}: the task itself is given, and its name is {task.name!r}")
    return dataclasses.replace(config, task=task.name)
