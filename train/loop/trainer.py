"""The training loop: windows in segments, a checkpoint after each, exact resume.

A segment starts all streams afresh from random numbers that depend on the seed and the segment's number alone. A
checkpoint is written between two segments, so it needs no stream states, and a resumed run repeats the numbers of
an uninterrupted one. Within a segment, windows go on from the states that the policy left behind.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from eventful.checks.extras import is_installed, lacking
from eventful.console.output import progress, say
from eventful.disk.replaced import replace_file
from eventful.errors import UserError
from policies import Layout, TrainablePolicy
from policies.content_hash import content_hash
from train import distributed
from train.estimators.protocol import Estimator
from train.files.run_identity import RunIdentity
from train.loop.history import History, read
from train.loop.tensorboard import TensorBoardWriter
from train.loop.validation import Validation, as_rows


@dataclass(frozen=True)
class TrainingSchedule:
    """How long and how fast.

    Attributes:
        steps: Number of windows, each with one optimiser step; may be 0.
        frames: Number of frames of all streams together in a window, for the log.
        segment: Number of windows from one fresh start of the streams (and checkpoint) to the next.
        lr: Peak learning rate; cosine decay to zero.
        clip: Largest gradient norm.
        seed: Seed of everything random.
        average: Weight of the past in the running mean of the trained weights, which is what is validated and becomes
            the policy; 0 for the last weights themselves.
    """

    steps: int
    frames: int
    segment: int
    lr: float
    clip: float
    seed: int
    average: float = 0.0


class Trainer:
    """Runs an estimator over the schedule.

    Args:
        policy: Policy to be trained.
        estimator: Estimator of the policy's gradients.
        layout: Layout of the model's tokens and gates, for the logs.
        schedule: Length and learning rate of the training.
        folder: Folder of checkpoint and event files.
        rank: Rank of this process; the first one writes.
        validation: Validation before the first step and at every checkpoint; first process only.

    Attributes:
        step: Number of windows so far.
        seconds: Seconds of training so far, interruptions and validation left out.
    """

    def __init__(
        self,
        policy: TrainablePolicy,
        estimator: Estimator,
        layout: Layout,
        schedule: TrainingSchedule,
        folder: Path,
        rank: int = 0,
        validation: Validation | None = None,
    ) -> None:
        self._policy, self._estimator, self._layout = policy, estimator, layout
        self._schedule, self._folder, self._validation = schedule, folder, validation
        self._rank = rank
        self._optimizer = torch.optim.Adam(policy.parameters(), lr=schedule.lr)
        self._scheduler = torch.optim.lr_scheduler.LambdaLR(self._optimizer, self._decay)
        self._averaged = AveragedModel(policy, multi_avg_fn=get_ema_multi_avg_fn(schedule.average))
        self.step, self.seconds = 0, 0.0
        self._rates: list[float] = []

    @property
    def checkpoint(self) -> Path:
        """The file that a run resumes from."""
        return self._folder / "training.pt"

    @property
    def frames_per_second(self) -> float | None:
        """Median over the windows of this run, of all processes together; None before the first."""
        return statistics.median(self._rates) if self._rates else None

    def resume(self, run: RunIdentity) -> bool:
        """Goes on from the folder's checkpoint, if there is one.

        Args:
            run: What the run is made from.

        Raises:
            UserError: If the checkpoint is damaged, or belongs to another run.
        """
        if not self.checkpoint.exists():
            return False
        try:
            saved = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            checksum = saved.pop("sha256", None)
            if checksum is not None and checksum != content_hash(saved):
                raise ValueError("the checksum is another")
            run.refuse_other(saved, self.checkpoint)
            self._policy.load_state_dict(saved["policy"])
            self._averaged.load_state_dict(saved["averaged"])
            self._optimizer.load_state_dict(saved["optimizer"])
            self._scheduler.load_state_dict(saved["scheduler"])
            self._estimator.budget_control.load_state_dict(saved["spending"])
            self.step, self.seconds = int(saved["step"]), float(saved["seconds"])
        except (UserError, OSError):
            raise
        except Exception as error:
            # Whatever torch makes of a file that is no longer what it wrote.
            raise UserError(
                f"{self.checkpoint} is damaged ({type(error).__name__}); delete it to start anew"
            ) from error
        return True

    def save(self, run: RunIdentity) -> None:
        """Writes the checkpoint, whole or not at all."""
        saved = {
            "policy": self._policy.state_dict(),
            "averaged": self._averaged.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
            "spending": self._estimator.budget_control.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            **run.to_dict(),
        }
        replace_file(self.checkpoint, partial(torch.save, saved | {"sha256": content_hash(saved)}))

    def fit(self, run: RunIdentity, until: Callable[[], bool] = lambda: False) -> None:
        """Trains to the end of the schedule, from wherever `resume` has put it; leaves the averaged weights behind.

        Args:
            run: What the run is made from; it goes into the checkpoint.
            until: Function that is asked after each segment; True ends the training early.
        """
        main = self._rank == 0
        board = self._board(run) if main else None
        history = History(self._folder, self.step) if main else None
        bar = progress(shown=main, total=self._schedule.steps, initial=self.step, unit="window")
        try:
            if history is not None and not history.has(self.step):
                self._look(board, history)
            while self.step < self._schedule.steps:
                started = time.perf_counter()
                self._segment(board, bar)
                self.seconds += time.perf_counter() - started
                if main:
                    self.save(run)
                self._look(board, history)
                if distributed.as_the_first_says(until()):
                    break
        finally:
            bar.close()
            if board is not None:
                board.close()
        self._take(self._mean_weights())

    def _board(self, run: RunIdentity) -> TensorBoardWriter:
        if not is_installed("plot"):
            say(lacking("the frontier in TensorBoard", "plot"))
        budgets = [] if self._validation is None else self._validation.budgets
        return TensorBoardWriter(self._folder / "tensorboard", self.step, run.settings, budgets)

    def _look(self, board: TensorBoardWriter | None, history: History | None) -> None:
        """Validates the policy, and notes the result."""
        if self._validation is None or board is None or history is None:
            return
        trained = [weight.detach().clone() for weight in self._policy.parameters()]
        self._take(self._mean_weights())
        points = self._validation.points()
        board.validation(self.step, points)
        board.overlays(self.step, self._validation.pictures())
        self._take(trained)
        history.add(self.step, self.seconds, as_rows(points))
        board.frontier(self.step, read(self._folder))

    def _mean_weights(self) -> list[Tensor]:
        """The running mean; before the first step, the weights themselves."""
        model = self._averaged.module if self._averaged.n_averaged else self._policy
        return [weight.detach() for weight in model.parameters()]

    @torch.no_grad()
    def _take(self, weights: Sequence[Tensor]) -> None:
        for mine, given in zip(self._policy.parameters(), weights, strict=True):
            mine.copy_(given)

    def _segment(self, board: TensorBoardWriter | None, bar: tqdm) -> None:
        schedule = self._schedule
        self._estimator.begin(f"{schedule.seed}/{self.step // schedule.segment}")
        for _ in range(min(schedule.segment, schedule.steps - self.step)):
            started = time.perf_counter()
            self._optimizer.zero_grad(set_to_none=True)
            result = self._estimator.window()
            distributed.average_gradients(self._policy.parameters())
            norm = nn.utils.clip_grad_norm_(self._policy.parameters(), schedule.clip)
            if not torch.isfinite(norm):
                raise UserError(f"gradients are not finite at step {self.step}; lower lr (it is {schedule.lr})")
            self._optimizer.step()
            self._averaged.update_parameters(self._policy)
            rate = float(self._scheduler.get_last_lr()[0])
            self._scheduler.step()
            self.step += 1
            self._rates.append(schedule.frames / (time.perf_counter() - started))
            bar.update()
            shown: dict[str, object] = {k: f"{result.stats[k]:.3g}" for k in ("loss", "share_over_budget")}
            bar.set_postfix(shown, refresh=False)
            if board is not None:
                extra = {"grad_norm": float(norm), "learning_rate": rate, "frames_per_second": self._rates[-1]}
                board.window(self.step, result, self._layout, extra)
        if board is not None:
            board.masks(self.step, result, self._layout)

    def _decay(self, step: int) -> float:
        warm = min((step + 1) / 10, 1.0)
        return warm * 0.5 * (1 + math.cos(math.pi * min(step / max(self._schedule.steps, 1), 1.0)))
