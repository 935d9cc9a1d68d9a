"""The settings of `eventful-evaluate`, and what of them a checkpoint can fill in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from envs.task import VideoTask
from eventful import cli
from eventful.checks.ranges import SEED, THREADS, setting
from eventful.devices import device_named
from eventful.errors import UserError
from eventful.tasks import recorded_task
from eventful.trust import options_of_checkpoint
from eventful.user_code import LEARNED, policy_class
from policies import Provenance, TrainablePolicy
from policies import load as load_policy
from policies.provenance import class_name
from train.config import check_settings
from train.evaluation.contenders import DEFAULT, digest
from train.task_config import TaskConfig, with_task


@dataclass
class EvaluateConfig(TaskConfig):
    """Evaluation of learned and heuristic policies.

    Attributes:
        task: Name of an installed task, or `MODULE:CLASS`; the installed one that the checkpoint names if empty.
        policy: Policy checkpoint: a folder, the name of an installed one such as `doom`, or a name on the model hub; or
            a list of them (seeds of one training); null for the heuristics alone.
        trust: Whether files that a checkpoint names are opened although it was not trained here.
        policy_class: Class of the checkpoints, if it is one of your own: `MODULE:CLASS`.
        out: Folder for everything that is written.
        split: Name of the split to evaluate on.
        max_clips: Largest number of clips to evaluate on, evenly picked.
        max_frames: Largest number of frames of each clip.
        budgets: Shares of the dense MACs, each in (0, 1).
        policies: Policies to compare; `TopR+age` has a bound on age; `TopR@gate` is run with a decision at every gate,
            `TopR@frame` with one per frame; `MODULE:FUNCTION` is a function of your own that takes a budget and
            returns a policy.
        seeds: Seeds of the random policy.
        granularity: Decisions per `gate` or per `frame`; as in the checkpoint's training if null (`frame` without one).
        attention: Attention update with granularity `gate`; as in the checkpoint's training if null.
        motion_compensation: Whether what is stale is moved along with the picture, for all policies with one decision
            per frame; as in the checkpoint's training if null.
        prefix: Whether class and register tokens are updated wherever another token is (`pinned`), or chosen like any
            other (`ordinary`), for all policies at every gate; as in the checkpoint's training if null.
        calibration_split: Name of the split on which the heuristics are set to their budgets.
        calibration_streams: Number of clips of that split.
        calibration_frames: Number of frames of each of these clips.
        streams: Number of clips side by side in one batch.
        device: Name of the device: `cpu`, `cuda`, ...
        dtype: Data type of weights and frames: `float32`, `bfloat16` or `float16`.
        threads: Number of CPU threads; torch's own choice if 0.
        cache_mb: Memory for the dense model's outputs, in MiB; what does not fit is computed again for every policy.
        bootstrap: Number of resamples of the clips for the intervals.
        bootstrap_seed: Seed of the resamples.
        tolerance: Loss against the dense model that counts as none: relative for a metric, absolute for a distance.
        loose_tolerance: Larger loss, at least `tolerance`, whose share is reported as well.
        latency: Whether the learned policy, top-r and the two best-known thresholds are timed against the dense model.
        latency_frames: Number of timed frames.
        plots: Whether pictures are drawn (needs matplotlib).

    Examples:
        eventful-evaluate configs/evaluate.yaml policy=runs/demo/policy out=runs/demo/evaluation
        eventful-evaluate policy=doom split=test_maps max_clips=16 'budgets=[0.05,0.1,0.2]' latency=false
        eventful-evaluate task=doom 'policies=[TopR,CalibratedThreshold,TopR@gate]' out=runs/rules
    """

    task: str = ""
    policy: Any = None
    trust: bool = False
    policy_class: str = LEARNED
    out: str = "runs/evaluation"
    split: str = "test"
    max_clips: int | None = setting(None, "[1, 1e7]")
    max_frames: int | None = setting(None, "[2, 1e7]")
    budgets: list[float] = setting([0.05, 0.1, 0.2, 0.5], "(0, 1)")
    policies: list[str] = field(default_factory=lambda: list(DEFAULT))
    seeds: list[int] = setting([0], SEED)
    granularity: Literal["gate", "frame"] | None = None
    attention: Literal["exact", "paper", "recompute"] | None = None
    motion_compensation: bool | None = None
    prefix: Literal["pinned", "ordinary"] | None = None
    calibration_split: str = "train"
    calibration_streams: int = setting(12, "[1, 1e5]")
    calibration_frames: int = setting(32, "[2, 1e5]")
    streams: int = setting(8, "[1, 1024]")
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: int = setting(0, THREADS)
    cache_mb: int = setting(1024, "[0, 1e7]")
    bootstrap: int = setting(500, "[1, 1e5]")
    bootstrap_seed: int = setting(0, SEED)
    tolerance: float = setting(0.01, "(0, 1)")
    loose_tolerance: float = setting(0.03, "(0, 1)")
    latency: bool = True
    latency_frames: int = setting(20, "[1, 1e5]")
    plots: bool = True


def load_policies(config: EvaluateConfig) -> dict[str, TrainablePolicy]:
    """The checkpoints by a name that changes with their content.

    Raises:
        UserError: If one cannot be read, is there twice, or does not go with the others.
    """
    policies: dict[str, TrainablePolicy] = {}
    kind = policy_class(config.policy_class, "policy_class")
    for path in checkpoint_paths(config):
        with cli.user_input(f"policy={path}"):
            policy = load_policy(path, kind).to(device_named(config.device))
        name = f"{Path(path).parent.name}/{Path(path).name} {policy_digest(policy)}".lstrip("/")
        if name in policies:
            raise UserError(f"policy={path} is there twice")
        policies[name] = policy
    if len({policy.granularity for policy in policies.values()}) > 1:
        raise UserError("policy: checkpoints of different granularity cannot be seeds of one training")
    return policies


def policy_digest(policy: TrainablePolicy) -> str:
    """Digits that change with a policy's weights and settings, with which its name in an evaluation ends."""
    # Settings that it does not use are left out, and so is what an evaluation sets itself or tensors tell.
    options: list[Any] = [policy.feedback] if policy.max_age is None else [policy.feedback, policy.max_age]
    if class_name(type(policy)):
        known = {"budget", "select", "feedback", "max_age", "provenance"}
        options.append(sorted((name, value) for name, value in policy.settings().items() if name not in known))
    return digest(policy, *options)


def completed(
    config: EvaluateConfig, policies: Mapping[str, TrainablePolicy], task: VideoTask | None = None
) -> EvaluateConfig:
    """The config with what it leaves open taken from the (first) checkpoint.

    Args:
        config: The config as the user gave it.
        policies: Policies of the checkpoints, by name.
        task: Task that is given ready-made, without options, or None.

    Raises:
        UserError: If it asks for another granularity than the checkpoint's, or leaves the task open and the
            checkpoint's is not an installed one.
    """
    config = with_task(config, task)
    policy = next(iter(policies.values()), None)
    trained = Provenance() if policy is None else policy.provenance
    options = {**trained.options} if policy is None else {**trained.options, "granularity": policy.granularity}
    changes: dict[str, Any] = {"task": config.task or (recorded_task(trained.task) if trained.task else "doom")}
    if task is None and changes["task"] == trained.task:
        fields = {f.name for f in dataclasses.fields(TaskConfig)}
        given = {k: getattr(config, k) for k in fields if getattr(config, k) is not None} | config.task_options
        known = options_of_checkpoint(trained, given, config.trust, "trust=true")
        changes |= {k: v for k, v in known.items() if k in fields}
        changes["task_options"] = {k: v for k, v in known.items() if k not in fields} | config.task_options
    granularity = options.get("granularity", "frame")
    if policies and config.granularity not in (None, granularity):
        raise UserError(f"granularity={config.granularity}: the checkpoint is for granularity {granularity!r}")
    changes["granularity"] = config.granularity or granularity
    changes["attention"] = config.attention or options.get("attention", "exact")
    changes["prefix"] = config.prefix or options.get("prefix", "pinned")
    if config.motion_compensation is None:
        changes["motion_compensation"] = bool(options.get("motion_compensation", False))
    return dataclasses.replace(config, **changes)


def checkpoint_paths(config: EvaluateConfig) -> list[str]:
    """The checkpoints that are given."""
    if config.policy is None:
        return []
    return [config.policy] if isinstance(config.policy, str) else list(config.policy)


def check(config: EvaluateConfig) -> None:
    """Looks at everything that can be judged without the task.

    Raises:
        UserError: If a value is out of range; the message names the key.
    """
    check_settings(config)
    paths = config.policy if isinstance(config.policy, list) else [config.policy]
    if not all(path is None or isinstance(path, str) for path in paths) or (None in paths and len(paths) > 1):
        raise UserError(f"policy must be a folder, a hub name or a list of them, got {config.policy!r}")
    if not config.budgets:
        raise UserError("budgets must be a list of shares of the dense MACs, at least one")
    if len(set(config.budgets)) < len(config.budgets):
        raise UserError(f"budgets has a value twice: {config.budgets}")
    if config.tolerance > config.loose_tolerance:
        raise UserError(f"tolerance={config.tolerance} must not be above loose_tolerance={config.loose_tolerance}")
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise UserError(f"seeds must be different numbers, at least one, got {config.seeds}")
