"""`eventful-evaluate`: learned against heuristic policies, at matched compute, on clips that nobody trained on.

    eventful-evaluate policy=runs/demo/policy out=runs/demo/evaluation

The task, its options and the way the model is run come from the checkpoint, unless they are given. Every finished run
is kept in `OUT/results.jsonl`; the same command goes on from there after an interruption.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

import eventful
from envs.task import Clip, VideoTask, has_metric, offers
from eventful import EventfulModel, cli
from eventful.checks.backbone import backbone_hash, warn_of_other_backbone
from eventful.checks.extras import require
from eventful.console.output import progress, say
from eventful.devices import device_named, dtype_named
from eventful.disk.replaced import replace_text
from eventful.errors import UserError
from eventful.tasks import saliency_of
from policies import All, PolicyMismatch, TrainablePolicy
from policies.protocol import Granularity
from train.calibration import CalibrationFrames, calibration_frames
from train.config import command_line, load_config
from train.evaluate_config import EvaluateConfig, check, checkpoint_paths, completed, load_policies
from train.evaluation import plots, tables
from train.evaluation.bootstrap import resample_clips
from train.evaluation.comparison import Comparison
from train.evaluation.contenders import Contender, digest, drop_blind, drop_twins, parse_contenders
from train.evaluation.latency import measure_latency
from train.evaluation.oracle import Oracle, PricedOracle
from train.evaluation.policy_maker import PolicyMaker
from train.evaluation.results_file import Key, ResultsFile
from train.evaluation.rollout import Footage, evaluate_policy
from train.evaluation.rules import Rules
from train.evaluation.summary import summary
from train.evaluation.trials import Trials
from train.files.folder_lock import only_run_in
from train.task_config import WHERE_AND_HOW, make_task, task_options

TIMED = ("TopR", "CalibratedThreshold", "SaliencyThreshold")
"""Rules that are timed beside the learned policy."""

COMMAND = "eventful-evaluate"


def evaluate(config: EvaluateConfig, task: VideoTask | None = None) -> Comparison:
    """Runs, or goes on running, an evaluation and writes its tables and plots.

    Args:
        config: Settings of the evaluation.
        task: Task to evaluate on; by default the one that the config or the checkpoint names.

    Raises:
        UserError: For settings that do not fit together, the checkpoint or the machine.
    """
    check(config)
    if config.plots:
        require("plots=true", "plot")
    if config.threads:
        torch.set_num_threads(config.threads)
    policies = load_policies(config)
    with only_run_in(Path(config.out)), nullcontext() if task is None else _weights_of_before(task, config.dtype):
        return _Evaluation(config, policies, task).run()


@contextmanager
def _weights_of_before(task: VideoTask, dtype: str) -> Iterator[None]:
    """Gives a task that goes on to be used the weights that it has now, if they are run in another type."""
    own = next(task.model.parameters()).dtype
    kept = None if own == dtype_named(dtype) else copy.deepcopy(task.model.state_dict())
    try:
        yield
    finally:
        if kept is not None:
            task.model.to(own).load_state_dict(kept)


class _Evaluation:
    """The stages of one evaluation."""

    def __init__(
        self, config: EvaluateConfig, policies: dict[str, TrainablePolicy], task: VideoTask | None = None
    ) -> None:
        asked, config = config, completed(config, policies, task)
        self._config, self._out = config, Path(config.out)
        self._device, self._dtype = device_named(config.device), dtype_named(config.dtype)
        own: Granularity = config.granularity or "frame"
        names = [n for n in config.policies if policies or not n.startswith("Learned")]
        self._task = make_task(config) if task is None else task
        named, blind = drop_blind(parse_contenders(names, own), offers(self._task, "saliency"))
        if not named:
            raise UserError(f"policies: there is nobody left to compare ({'; '.join(blind) or 'none is given'})")
        ends = [c for c in parse_contenders(["All", "Nothing"], own) if c not in named]
        self._contenders, twins = drop_twins([*named, *ends])
        self._notes = [*blind, *twins]
        granularities = {c.granularity for c in self._contenders}
        for name, usual in (("attention", "exact"), ("prefix", "pinned")):
            value = getattr(asked, name)
            if value not in (None, usual) and "gate" not in granularities:
                raise UserError(f"{name}={value} is read by policies at every gate only (there is none)")
        if asked.motion_compensation and "frame" not in granularities:
            raise UserError("motion_compensation is read by policies with one decision per frame only (there is none)")
        if not policies:
            self._notes.append("no policy=FOLDER was given: the heuristics alone")
        about = {"backbone": backbone_hash(self._task.model)}
        if task is None:
            about["command"] = command_line(asked, COMMAND, but=WHERE_AND_HOW)
        for policy in policies.values():
            warn_of_other_backbone(policy.provenance, about["backbone"], task_options(config))
        self._task.model.to(self._device, self._dtype)
        self._footage = self._held_out()
        self._draws = resample_clips(len(self._footage.clips), config.bootstrap, config.bootstrap_seed)
        self._models = {c.granularity: self._wrap(c.granularity) for c in self._contenders}
        self._maker = PolicyMaker(self._rules, self._oracle, config.budgets, policies)
        self._frames: CalibrationFrames | None = None
        self._metric_name = self._task.metric_name if has_metric(self._task) else None
        self._results = ResultsFile(self._out / "results.jsonl", self._setting(), self._metric_name, about)

    def run(self) -> Comparison:
        """Runs what is missing, then writes what was found."""
        for note in [*self._notes, *self._results.notes]:
            say(note)
        keys = {k: c for c in self._contenders for k in self._maker.keys(c, self._config.seeds)}
        self._run_missing(keys)
        if self._config.latency:
            self._time_missing(keys)
        comparison = Comparison(
            self._contenders,
            [self._results.records[key] for key in keys],
            self._results.latencies,
            self._draws,
            self._metric_name,
            [self._config.tolerance, self._config.loose_tolerance],
        )
        self._write(comparison)
        return comparison

    def _run_missing(self, keys: dict[Key, Contender]) -> None:
        missing = [key for key in keys if key not in self._results.records]
        bar = progress(missing, shown=bool(missing), unit="run")
        for key in bar:
            contender = keys[key]
            bar.set_description(contender.label + ("" if key.budget is None else f" at {key.budget:g}"))
            model = self._models[contender.granularity]
            try:
                policy, detail = self._maker.policy(contender, key)
                record = evaluate_policy(model, policy, self._footage, key, self._draws, detail)
            except PolicyMismatch as error:
                raise UserError(f"policy {key.seed or contender.id}: {error}") from error
            self._results.add(record)

    def _time_missing(self, keys: dict[Key, Contender]) -> None:
        timed = {k: c for k, c in keys.items() if c.learned or c.id in TIMED}
        # One checkpoint is as fast as another of the same shape.
        first = {(k.contender, k.budget): k for k in reversed(timed)}.values()
        missing = [key for key in reversed(list(first)) if key not in self._results.latencies]
        for key in progress(missing, "latency", bool(missing), unit="policy"):
            contender = timed[key]
            policy, _ = self._maker.policy(contender, key)
            model, clips = self._models[contender.granularity], self._footage.clips
            frames = self._config.latency_frames
            self._results.add(measure_latency(self._task, model, policy, clips, frames, key))

    def _write(self, comparison: Comparison) -> None:
        out, title = self._out, f"{self._task.name}: quality against compute"
        texts = {
            "table.csv": tables.table_csv(comparison),
            "table.md": f"{tables.table(comparison)}\n{tables.LEGEND}",
            "differences.md": tables.differences(comparison),
            "summary.md": summary(comparison, self._about(), self._notes),
        }
        for name, text in texts.items():
            replace_text(out / name, text)
        written = [*texts, "results.jsonl"]
        if self._config.plots:
            plots.plot_frontier(comparison, title, out / "frontier.png")
            written.append("frontier.png")
            if plots.plot_rates(comparison, out / "rates.png"):
                written.append("rates.png")
        print(f"\n{tables.table(comparison, brief=True)}\n\nwritten to {out}: {', '.join(written)}")

    def _wrap(self, granularity: Granularity) -> EventfulModel:
        at_gates = granularity == "gate"
        with cli.user_input(f"task {self._task.name}"):
            return eventful.wrap(
                self._task.model,
                All(),
                granularity=granularity,
                attention=(self._config.attention or "exact") if at_gates else "exact",
                prefix=(self._config.prefix or "pinned") if at_gates else "pinned",
                saliency=saliency_of(self._task),
                motion_compensation=bool(self._config.motion_compensation) and not at_gates,
            )

    def _held_out(self) -> Footage:
        config = self._config
        with cli.user_input(f"split={config.split}"):
            clips = _thinned(self._task.clips(config.split), config.max_clips, config.max_frames)
            return Footage(self._task, clips, config.streams, self._device, self._dtype, config.cache_mb << 20)

    def _rules(self, granularity: Granularity) -> Rules:
        if self._frames is None:
            self._frames = self._calibration_frames()
        with cli.user_input(f"task {self._task.name}"):
            trials = Trials(self._task, self._models[granularity], self._frames, self._config.cache_mb << 20)
        return Rules(trials, sorted(self._config.budgets))

    def _oracle(self, contender: Contender, budget: float) -> Oracle:
        model, footage = self._models[contender.granularity], self._footage
        layout = model.layout(footage.inputs(footage.groups[0], 0))
        kind = PricedOracle if contender.name == "PricedOracle" else Oracle
        return kind(self._task, model, layout.count(budget))

    def _calibration_frames(self) -> CalibrationFrames:
        config = self._config
        with cli.user_input(f"calibration_split={config.calibration_split}"):
            clips = self._task.clips(config.calibration_split)
            frames = calibration_frames(self._task, clips, config.calibration_streams, config.calibration_frames)
        return [frame.to(self._dtype) for frame in frames]

    def _setting(self) -> dict[str, Any]:
        """What all runs depend on. Policies and budgets are not part of it: more of them can be added later."""
        names = ["task", "split", "attention", "dtype", "bootstrap", "bootstrap_seed", "calibration_split"]
        names += ["calibration_streams", "calibration_frames", "granularity", "motion_compensation", "prefix"]
        clips = {clip.name: len(clip) for clip in self._footage.clips}
        setting = {name: getattr(self._config, name) for name in names}
        task = {"task_options": task_options(self._config), "model weights": digest(self._task.model)}
        # What a task without labels is scored by has changed from version to version.
        scored = {} if self._task.has_labels or self._metric_name is None else {"metric": self._metric_name}
        return setting | task | {"device": self._device.type, "clips": clips} | scored

    def _about(self) -> list[str]:
        config, clips = self._config, self._footage.clips
        frames = sum(len(clip) for clip in clips)
        about = [f"task {config.task}, split {config.split}: {len(clips)} clips, {frames} frames"]
        about.append(f"granularity {config.granularity}, {config.dtype}, {self._device.type}")
        about += [f"policy {path}" for path in checkpoint_paths(config)]
        return about


def _thinned(clips: Sequence[Clip], most: int | None, frames: int | None) -> list[Clip]:
    """At most so many clips, evenly picked, and of each at most so many frames."""
    count = min(len(clips), most or len(clips))
    picked = [clips[i * len(clips) // count] for i in range(count)]
    return picked if frames is None else [_cut(clip, frames) for clip in picked]


def _cut(clip: Clip, frames: int) -> Clip:
    return dataclasses.replace(clip, frames_THWC=clip.frames_THWC[:frames], targets=clip.targets[:frames])


def _main(argv: Sequence[str]) -> None:
    evaluate(load_config(EvaluateConfig, argv, COMMAND))


def main() -> None:
    """Console entry point."""
    cli.run(COMMAND, _main)


if __name__ == "__main__":
    main()
