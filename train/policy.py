"""`eventful-train`: trains a token policy inside an eventful model.

    eventful-train configs/demo.yaml estimator=reinforce seed=1

Calibrates the heuristic that the policy starts from, warms the policy up, trains it, calibrates what it has become, and
writes `OUT/policy` (and `OUT/heuristic`, the untrained policy, which is the calibrated threshold).
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

import eventful
from envs.damage import Objective
from envs.engine import SelectionEngine
from envs.rewards import Reward
from envs.task import VideoTask, offers
from eventful import cli
from eventful.checks.backbone import backbone_hash
from eventful.console.output import say
from eventful.devices import device_named
from eventful.disk.replaced import replace_folder
from eventful.errors import UserError
from eventful.tasks import saliency_of
from eventful.trust import note_trained_here
from eventful.user_code import policy_class
from policies import All, LearnedPolicy, Policy, Provenance, TrainablePolicy
from policies import load as load_policy
from train import distributed
from train.calibration import CalibrationFrames, calibrate, calibration_frames, fit_table, install
from train.config import command_line, load_config, part
from train.estimators.budget_control import BudgetControl, BudgetOptions
from train.estimators.gumbel import GumbelEstimator
from train.estimators.oracle import OracleWarmStart
from train.estimators.protocol import Estimator, WindowOptions
from train.estimators.reinforce import ReinforceEstimator
from train.estimators.streams import StreamSource
from train.files.folder_lock import only_run_in
from train.files.run_identity import RunIdentity, contents_of
from train.loop.start import StartRule, best_rule
from train.loop.trainer import Trainer, TrainingSchedule
from train.loop.validation import Validation
from train.task_config import WHERE_AND_HOW, make_task, task_options, with_task
from train.train_config import TrainConfig, check, model_options, objective_of, reward_of

COMMAND = "eventful-train"


def train(config: TrainConfig, task: VideoTask | None = None) -> Path:
    """Trains a policy; returns the folder of its checkpoint.

    Args:
        config: Settings of the training.
        task: Task to train on; by default the one that the config names. The checkpoint records its name alone, so
            whoever evaluates it gives the task again.

    Raises:
        UserError: For settings that do not fit together or the machine.
    """
    command = command_line(config, COMMAND, but=WHERE_AND_HOW) if task is None else ""
    config = with_task(config, task)
    check(config)
    device = device_named(distributed.own_device(config.device))
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    random.seed(config.seed)
    with (
        distributed.process_group(device) as ranks,
        # The first process holds the folder for all.
        nullcontext() if ranks[0] else only_run_in(Path(config.out)),
    ):
        with distributed.first_one_first():
            # Whoever comes first records or decodes the clips; the others find them.
            task = make_task(config) if task is None else task
            task.clips("train")
        task.model.to(device)
        model = eventful.wrap(task.model, All(), saliency=saliency_of(task), **model_options(config))
        return _Run(config, task, model, ranks, command).run()


class _Run:
    """The stages of one training run."""

    def __init__(
        self,
        config: TrainConfig,
        task: VideoTask,
        model: eventful.EventfulModel,
        ranks: tuple[int, int],
        command: str = "",
    ) -> None:
        self._config, self._task, self._model, self._ranks = config, task, model, ranks
        kept = _weights(objective_of(config, task))
        origin: dict[str, Any] = {"objective": kept, "backbone": backbone_hash(task.model), "command": command}
        self._provenance = Provenance(config.task, task_options(config), model_options(config), **origin)
        note_trained_here(self._provenance)
        self._kind = policy_class(config.policy, "policy")
        self._out = Path(config.out)
        self._objective, self._rewarded = objective_of(config, task), reward_of(config, task)
        self._clips = task.clips("train")
        budgets = (config.budget_min, config.budget_max)
        with cli.user_input("split train"):
            self._frames: CalibrationFrames = calibration_frames(
                task, self._clips, max(config.calibration_streams // 2, 1), max(config.calibration_frames // 3, 2)
            )
            self._source = StreamSource(self._clips, distributed.share_out(config.streams, *ranks), budgets)

    def run(self) -> Path:
        """All stages, those that a checkpoint has already behind it left out."""
        config = self._config
        self._say(f"objective: {_shown(self._objective)}; reward: {_shown(self._rewarded)}")
        started = time.perf_counter()
        policy = self._initial()
        # The policy's own cost is part of what a budget pays for.
        self._model.policy = policy
        start_seconds = time.perf_counter() - started
        identity = self._identity(policy)
        trainer = self._trainer(policy)
        resumed = trainer.resume(identity)
        if resumed:
            self._say(f"resuming at step {trainer.step} of {config.steps}")
        else:
            started = time.perf_counter()
            self._warm_up(policy)
            distributed.copy_from_the_first(policy)
            trainer.seconds = start_seconds + time.perf_counter() - started
        trainer.fit(identity, until=lambda: 0 < config.minutes * 60 < trainer.seconds)
        if trainer.frames_per_second:
            self._say(f"{trainer.frames_per_second:.1f} frames per second (median of the windows)")
        if self._ranks[0] == 0:
            self._say("calibrating the trained policy")
            frames = calibration_frames(self._task, self._clips, config.calibration_streams, config.calibration_frames)
            fit_table(self._model, frames, policy)
            replace_folder(self._out / "policy", policy.save_pretrained)
            print(f"policy written to {self._out / 'policy'}", flush=True)
        return self._out / "policy"

    def _initial(self) -> TrainablePolicy:
        """The untrained policy, from the output folder if it is already there."""
        config, folder = self._config, self._out / "heuristic"
        checkpoint = self._out / "training.pt"
        if checkpoint.exists() and folder.exists():
            with cli.user_input(f"out={config.out}: what the interrupted run started from"):
                return self._load(folder).to(self._frames[0].device).train()
        policy = self._make(self._start_rule(), config.policy_budgets)
        self._say(f"calibrating thresholds for {len(config.policy_budgets)} budgets")
        self._model.policy = policy
        install(policy, calibrate(self._model, self._frames, config.policy_budgets, policy.weighted_error))
        if self._ranks[0] == 0:
            replace_folder(folder, policy.save_pretrained)
        return policy

    def _make(self, rule: StartRule, budgets: Sequence[float]) -> TrainablePolicy:
        """An untrained policy."""
        config, layout = self._config, self._model.layout(self._frames[0])
        options = dict(config.policy_options)
        if self._kind is LearnedPolicy:
            seen = config.saliency and offers(self._task, "saliency")
            names = ("hidden", "projections", "input_projections", "neighbours")
            options = {name: getattr(config, name) for name in names}
            options |= {"saliency": seen, "motion": config.motion_compensation}
        if rule.saliency_exponent:
            options |= dataclasses.asdict(rule)
        options |= {} if config.max_age is None else {"max_age": config.max_age}
        common: dict[str, Any] = {"budgets": budgets, "provenance": self._provenance}
        try:
            policy = self._kind(layout.gates, layout.dim, config.granularity, **common, **options)
        except (TypeError, ValueError) as error:
            raise UserError(f"policy={config.policy}: {cli.one_line(error)}") from error
        return policy.to(self._frames[0].device)

    def _start_rule(self) -> StartRule:
        """What the untrained policy is; see `train.loop.start`."""
        config = self._config
        exponents = config.saliency_exponents if offers(self._task, "saliency") else [0.0]
        if exponents == [0.0]:
            return StartRule()
        middle = math.sqrt(config.budget_min * config.budget_max)
        engine = self._engine("train", self._model.policy)
        given = self._model, self._frames, engine, middle, exponents, config.saliency_floors
        # Policies that are made only to be compared must not shift what is drawn afterwards.
        with torch.random.fork_rng(devices=[]):
            best, earned = best_rule(self._make, *given)
        tried = "; ".join(f"{rule}: {-reward:.4g}" for rule, reward in earned.items())
        self._say(f"start: {best} (damage at a share of {middle:.3g}: {tried})")
        return best

    def _warm_up(self, policy: TrainablePolicy) -> None:
        config = self._config
        if config.warm_start == "none":
            return
        if config.warm_start == "oracle":
            with cli.user_input("warm_start=oracle"):
                warm = OracleWarmStart(self._task, self._model, policy, self._objective, config.oracle, config.seed)
            streams = self._source.batch(f"{config.seed}/oracle")
            final = warm.fit(streams, show=self._ranks[0] == 0)
            self._say(f"warm start: listwise cross-entropy {final:.3f}")
            fit_table(self._model, self._frames, policy)
            return
        with cli.user_input(f"warm_start={config.warm_start}"):
            given = self._load(config.warm_start)
        try:
            policy.load_state_dict(given.state_dict())
        except RuntimeError as error:
            raise UserError(
                f"warm_start={config.warm_start}: a policy of another shape: {cli.one_line(error)}"
            ) from error

    def _trainer(self, policy: TrainablePolicy) -> Trainer:
        config = self._config
        schedule = TrainingSchedule(
            steps=config.steps,
            frames=config.window * config.streams,
            segment=config.segment,
            lr=config.lr,
            clip=config.clip,
            seed=config.seed,
            average=config.average,
        )
        validation = None
        if self._ranks[0] == 0:
            with cli.user_input("split val"):
                validation = Validation(self._engine("val", policy), policy, self._load(self._out / "heuristic"))
        layout = self._model.layout(self._frames[0])
        return Trainer(policy, self._estimator(policy), layout, schedule, self._out, self._ranks[0], validation)

    def _estimator(self, policy: TrainablePolicy) -> Estimator:
        config, task, model, source = self._config, self._task, self._model, self._source
        budget_control, windows = BudgetControl(policy, part(config, BudgetOptions)), part(config, WindowOptions)
        with cli.user_input(f"estimator={config.estimator}"):
            if config.estimator == "reinforce":
                engine = self._engine("train", policy)
                return ReinforceEstimator(engine, policy, source, budget_control, windows, config.reinforce)
            objective = self._objective
            return GumbelEstimator(task, model, policy, objective, source, budget_control, windows, config.gumbel)

    def _engine(self, split: str, policy: Policy) -> SelectionEngine:
        """The environment of a split. Its rewards are damage alone, in units of the objective: cost has its price."""
        config = self._config
        with cli.user_input(f"reward={config.reward}"):
            return SelectionEngine(
                config.granularity,
                self._task,
                split=split,
                budget=(config.budget_min, config.budget_max),
                reward=Reward(self._rewarded, scale=1.0, weight=0.0),
                model_options={k: v for k, v in model_options(config).items() if k != "granularity"},
                policy=policy,
                score_labels=self._rewarded.needs_labels,
            )

    def _identity(self, policy: TrainablePolicy) -> RunIdentity:
        """What must not change between a checkpoint and its resumption; the first process looks at contents for all."""
        free = {"out", "minutes", "threads", "device"}
        settings = {k: json.dumps(v) for k, v in dataclasses.asdict(self._config).items() if k not in free}
        if self._ranks[0]:
            return RunIdentity(settings)
        with cli.user_input("split val"):
            clips = {"train": self._clips, "val": self._task.clips("val")}
        return RunIdentity(settings, contents_of(self._task.model.state_dict(), clips, policy))

    def _load(self, folder: str | Path) -> TrainablePolicy:
        return load_policy(folder, self._kind)

    def _say(self, text: str) -> None:
        if self._ranks[0] == 0:
            say(text)


def _weights(objective: Objective) -> dict[str, float]:
    """The weights that are not 0."""
    return {name: weight for name, weight in dataclasses.asdict(objective).items() if weight}


def _shown(objective: Objective) -> str:
    return ", ".join(f"{name} {weight:g}" for name, weight in _weights(objective).items())


def _main(argv: Sequence[str]) -> None:
    train(load_config(TrainConfig, argv, COMMAND))


def main() -> None:
    """Console entry point."""
    cli.run(COMMAND, _main)


if __name__ == "__main__":
    main()
