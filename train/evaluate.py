"""`eventful-evaluate`: learned against heuristic policies, at matched compute, on clips that nobody trained on.

    eventful-evaluate policy=runs/demo/policy out=runs/demo/evaluation

The task, its options and the way the model is run come from the checkpoint, unless they are given. Every finished run
is kept in `OUT/results.jsonl`; the same command goes on from there after an interruption.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

import eventful
from envs.task import Clip
from eventful import EventfulModel, cli
from eventful.errors import UserError
from policies import All, LearnedPolicy, PolicyMismatch
from policies import load as load_policy
from policies.protocol import Granularity
from train import plots, tables
from train.calibration import Frames, calibration_frames
from train.comparison import Comparison
from train.config import TaskConfig, load_config, make_task, task_options
from train.contenders import LABELS, Contender, Setter, digest, drop_twins, parse_contenders
from train.evaluation import Footage, evaluate_policy
from train.frontier import draw
from train.latency import measure_latency
from train.records import Key, ResultsFile

COMMAND = "eventful-evaluate"

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class EvaluateConfig(TaskConfig):
    """Evaluation of learned and heuristic policies.

    Attributes:
        task: Name of the task; that of the checkpoint if empty.
        policy: Folder or hub name of a policy checkpoint, or a list of them (seeds of one training); null for the
            heuristics alone.
        out: Folder for everything that is written.
        split: Clips to evaluate on.
        max_clips: At most so many of them, evenly picked.
        max_frames: At most so many frames of each.
        budgets: Shares of the dense MACs, each in (0, 1).
        policies: Which to compare; `TopR@gate` is run with a decision at every gate, `TopR@frame` with one per frame.
        seeds: Of the random policy.
        granularity: `gate` or `frame`; as the checkpoint was trained if null (`frame` without one).
        attention: Attention update with granularity `gate`; as the checkpoint was trained if null.
        calibration_split: Clips on which the heuristics are set to their budgets.
        calibration_streams: How many of them.
        calibration_frames: Frames of each.
        streams: Clips side by side in one batch.
        device: `cpu`, `cuda`, ...
        dtype: `float32`, `bfloat16` or `float16`.
        threads: Of the CPU; 0 for torch's own choice.
        cache_mb: Most memory for the dense model's outputs; what does not fit is computed again for every policy.
        bootstrap: Resamples of the clips for the intervals.
        bootstrap_seed: Of these.
        tolerance: How much worse than the dense model is as good: relative for a metric, absolute for a distance.
        latency: Time the learned policy and top-r against the dense model.
        latency_frames: Frames to time.
        plots: Draw pictures (needs matplotlib).
    """

    task: str = ""
    policy: Any = None
    out: str = "runs/evaluation"
    split: str = "test"
    max_clips: int | None = None
    max_frames: int | None = None
    budgets: list[float] = field(default_factory=lambda: [0.05, 0.1, 0.2, 0.5])
    policies: list[str] = field(default_factory=lambda: list(LABELS))
    seeds: list[int] = field(default_factory=lambda: [0])
    granularity: Literal["gate", "frame"] | None = None
    attention: Literal["exact", "paper", "recompute"] | None = None
    calibration_split: str = "train"
    calibration_streams: int = 12
    calibration_frames: int = 32
    streams: int = 8
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: int = 0
    cache_mb: int = 1024
    bootstrap: int = 500
    bootstrap_seed: int = 0
    tolerance: float = 0.01
    latency: bool = True
    latency_frames: int = 20
    plots: bool = True


def evaluate(config: EvaluateConfig) -> Comparison:
    """Runs, or goes on running, an evaluation and writes its tables and plots.

    Raises:
        UserError: For settings that do not fit together, the checkpoint or the machine.
    """
    _check(config)
    if config.plots:
        plots.check_plotting()
    if config.threads:
        torch.set_num_threads(config.threads)
    return _Evaluation(config, _load_policies(config)).run()


class _Evaluation:
    """The stages of one evaluation."""

    def __init__(self, config: EvaluateConfig, policies: dict[str, LearnedPolicy]) -> None:
        config = _completed(config, policies)
        self._config, self._out = config, Path(config.out)
        self._device = _device(config)
        own: Granularity = config.granularity or "frame"
        names = [n for n in config.policies if policies or not n.startswith("Learned")]
        named = parse_contenders(names, own)
        ends = [c for c in parse_contenders(["All", "Nothing"], own) if c not in named]
        self._contenders, self._notes = drop_twins([*named, *ends])
        if not policies:
            self._notes.append("no policy=FOLDER was given: the heuristics alone")
        self._task = make_task(config)
        self._task.model.to(self._device, DTYPES[config.dtype])
        self._footage = self._held_out()
        self._draws = draw(len(self._footage.clips), config.bootstrap, config.bootstrap_seed)
        self._models = {c.granularity: self._wrap(c.granularity) for c in self._contenders}
        self._setter = Setter(self._models, self._calibration_frames, config.budgets, policies)
        self._results = ResultsFile(self._out / "results.jsonl", self._setting())

    def run(self) -> Comparison:
        """Runs what is missing, then writes what was found."""
        for note in [*self._notes, *self._results.notes]:
            print(note, flush=True)
        keys = {k: c for c in self._contenders for k in self._setter.keys(c, self._config.seeds)}
        self._run_missing(keys)
        if self._config.latency:
            self._time_missing(keys)
        comparison = Comparison(
            self._contenders,
            [self._results.records[key] for key in keys],
            self._results.latencies,
            self._draws,
            self._task.metric_name if self._task.has_labels else None,
            self._config.tolerance,
        )
        self._write(comparison)
        return comparison

    def _run_missing(self, keys: dict[Key, Contender]) -> None:
        missing = [key for key in keys if key not in self._results.records]
        bar = tqdm(missing, unit="run", disable=not missing, dynamic_ncols=True)
        for key in bar:
            contender = keys[key]
            bar.set_description(contender.label + ("" if key.budget is None else f" at {key.budget:g}"))
            policy, detail = self._setter.policy(contender, key)
            model = self._models[contender.granularity]
            try:
                record = evaluate_policy(model, policy, self._footage, key, self._draws, detail)
            except PolicyMismatch as error:
                raise UserError(f"policy {key.seed}: {error}") from error
            self._results.add(record)

    def _time_missing(self, keys: dict[Key, Contender]) -> None:
        timed = {k: c for k, c in keys.items() if c.learned or c.name == "TopR"}
        # One checkpoint is as fast as another of the same shape.
        first = {(k.contender, k.budget): k for k in reversed(timed)}.values()
        missing = [key for key in reversed(list(first)) if key not in self._results.latencies]
        for key in tqdm(missing, desc="latency", unit="policy", disable=not missing, dynamic_ncols=True):
            contender = timed[key]
            policy, _ = self._setter.policy(contender, key)
            model, clips = self._models[contender.granularity], self._footage.clips
            frames = self._config.latency_frames
            self._results.add(measure_latency(self._task, model, policy, clips, frames, key))

    def _write(self, comparison: Comparison) -> None:
        out, title = self._out, f"{self._task.name}: quality against compute"
        texts = {
            "table.csv": tables.table_csv(comparison),
            "table.md": f"{tables.table(comparison)}\n{tables.LEGEND}",
            "differences.md": tables.differences(comparison),
            "summary.md": tables.summary(comparison, self._about(), self._notes),
        }
        for name, text in texts.items():
            (out / name).write_text(text)
        written = [*texts, "results.jsonl"]
        if self._config.plots:
            plots.plot_frontier(comparison, title, out / "frontier.png")
            written.append("frontier.png")
            if plots.plot_rates(comparison, out / "rates.png"):
                written.append("rates.png")
        print(f"\n{tables.table(comparison, brief=True)}\n\nwritten to {out}: {', '.join(written)}")

    def _wrap(self, granularity: Granularity) -> EventfulModel:
        attention = self._config.attention or "exact"
        if granularity == "frame":
            attention = "exact"
        with cli.user_input(f"task {self._task.name}"):
            return eventful.wrap(self._task.model, All(), granularity=granularity, attention=attention)

    def _held_out(self) -> Footage:
        config = self._config
        with cli.user_input(f"split={config.split}"):
            clips = _thinned(self._task.clips(config.split), config.max_clips, config.max_frames)
            return Footage(self._task, clips, config.streams, self._device, DTYPES[config.dtype], config.cache_mb << 20)

    def _calibration_frames(self) -> Frames:
        config = self._config
        with cli.user_input(f"calibration_split={config.calibration_split}"):
            clips = self._task.clips(config.calibration_split)
            frames = calibration_frames(self._task, clips, config.calibration_streams, config.calibration_frames)
        return [frame.to(DTYPES[config.dtype]) for frame in frames]

    def _setting(self) -> dict[str, Any]:
        """What all runs depend on. Policies and budgets are not part of it: more of them can be added later."""
        names = ["task", "split", "attention", "dtype", "bootstrap", "bootstrap_seed", "calibration_split"]
        names += ["calibration_streams", "calibration_frames", "granularity"]
        clips = {clip.name: len(clip) for clip in self._footage.clips}
        options = task_options(self._config) | {"weights": digest(self._task.model)}
        setting = {name: getattr(self._config, name) for name in names}
        return setting | {"device": self._device.type, "task_options": options, "clips": clips}

    def _about(self) -> list[str]:
        config, clips = self._config, self._footage.clips
        frames = sum(len(clip) for clip in clips)
        about = [f"task {config.task}, split {config.split}: {len(clips)} clips, {frames} frames"]
        about.append(f"granularity {config.granularity}, {config.dtype}, {self._device.type}")
        about += [f"policy {path}" for path in _paths(config)]
        return about


def _load_policies(config: EvaluateConfig) -> dict[str, LearnedPolicy]:
    """The checkpoints by a name that changes with their content."""
    policies: dict[str, LearnedPolicy] = {}
    for path in _paths(config):
        with cli.user_input(f"policy={path}"):
            policy = load_policy(path).to(_device(config))
        name = f"{Path(path).parent.name}/{Path(path).name} {digest(policy, policy.feedback)}".lstrip("/")
        if name in policies:
            raise UserError(f"policy={path} is there twice")
        policies[name] = policy
    if len({policy.granularity for policy in policies.values()}) > 1:
        raise UserError("policy: checkpoints of different granularity cannot be seeds of one training")
    return policies


def _completed(config: EvaluateConfig, policies: dict[str, LearnedPolicy]) -> EvaluateConfig:
    """The config with what it leaves open taken from the (first) checkpoint."""
    known: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for policy in policies.values():
        known = dict(policy.provenance.get("task") or {})
        options = dict(policy.provenance.get("options") or {}) | {"granularity": policy.granularity}
        break
    name = known.pop("name", "doom")
    changes: dict[str, Any] = {"task": config.task or name}
    if changes["task"] == name:
        fields = {f.name for f in dataclasses.fields(TaskConfig)}
        changes |= {k: v for k, v in known.items() if k in fields and getattr(config, k) is None}
        others = {k: v for k, v in known.items() if k not in fields}
        changes["task_options"] = others | config.task_options
    granularity = options.get("granularity", "frame")
    if policies and config.granularity not in (None, granularity):
        raise UserError(f"granularity={config.granularity}: the checkpoint is for granularity {granularity!r}")
    changes["granularity"] = config.granularity or granularity
    changes["attention"] = config.attention or options.get("attention", "exact")
    return dataclasses.replace(config, **changes)


def _paths(config: EvaluateConfig) -> list[str]:
    if config.policy is None:
        return []
    return [config.policy] if isinstance(config.policy, str) else list(config.policy)


def _thinned(clips: Sequence[Clip], most: int | None, frames: int | None) -> list[Clip]:
    """At most so many clips, evenly picked, and of each at most so many frames."""
    count = min(len(clips), most or len(clips))
    picked = [clips[i * len(clips) // count] for i in range(count)]
    return picked if frames is None else [_cut(clip, frames) for clip in picked]


def _cut(clip: Clip, frames: int) -> Clip:
    return dataclasses.replace(clip, frames_THWC=clip.frames_THWC[:frames], targets=clip.targets[:frames])


def _check(config: EvaluateConfig) -> None:
    paths = config.policy if isinstance(config.policy, list) else [config.policy]
    if not all(path is None or isinstance(path, str) for path in paths) or (None in paths and len(paths) > 1):
        raise UserError(f"policy must be a folder, a hub name or a list of them, got {config.policy!r}")
    if not config.budgets or not all(0 < budget < 1 for budget in config.budgets):
        raise UserError(f"budgets must be shares of the dense MACs between 0 and 1, got {config.budgets}")
    if len(set(config.budgets)) < len(config.budgets):
        raise UserError(f"budgets has a value twice: {config.budgets}")
    least = {"streams": 1, "bootstrap": 1, "calibration_streams": 1, "calibration_frames": 2, "latency_frames": 1}
    least |= {"max_clips": 1, "max_frames": 2, "cache_mb": 0, "threads": 0}
    for name, low in least.items():
        value = getattr(config, name)
        if value is not None and value < low:
            raise UserError(f"{name} must be at least {low}, got {value}")
    if not 0 < config.tolerance < 1:
        raise UserError(f"tolerance must be between 0 and 1, got {config.tolerance}")
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise UserError(f"seeds must be different numbers, at least one, got {config.seeds}")


def _device(config: EvaluateConfig) -> torch.device:
    try:
        device = torch.device(config.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={config.device}: {cli.one_line(error)}") from error
    return device


def _main(argv: Sequence[str]) -> None:
    evaluate(load_config(EvaluateConfig, argv, COMMAND))


def main() -> None:
    """Console entry point."""
    cli.run(COMMAND, _main)


if __name__ == "__main__":
    main()
