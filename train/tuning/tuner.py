"""The temporal part of a ViViT, tuned by AdamW on what the spatial part has left of each video.

Eventful Transformers (ICCV 2023), supplement: the temporal part learns to live with the features of a spatial part that
updates r tokens, and only that part is trained. A video is one example: the logits of all its views are averaged, and
the loss is

- `published`: PyTorch's cross entropy, which is one of logits, taken of *probabilities*: the softmax is applied twice.
  Gradients are weak, and the published learning rates are for them;
- `cross_entropy`: the ordinary one, of the averaged logits.

What is random in a step depends on the seed and the number of the step alone: a run that was interrupted repeats the
numbers of one that was not.

Shape suffixes: B videos, V views, S steps, D channels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from envs.vivit import TemporalClassifier, video_probabilities
from eventful.checks.ranges import SEED, setting
from eventful.console.output import progress
from eventful.disk.replaced import replace_file
from eventful.errors import UserError
from train.files.saved_state import read_state
from train.recipe.training import step_seed
from train.tuning.accuracy import Examples, batch_of

Loss = Literal["published", "cross_entropy"]
Row = dict[str, float]


@dataclass
class TuningOptions:
    """The recipe.

    Attributes:
        loss: `published`, the cross entropy of probabilities (softmax twice), or `cross_entropy`.
        lr: Learning rate, constant. Published: 1e-5 for EPIC-Kitchens, 2e-6 for Kinetics.
        epochs: Number of passes over the training videos; the last one's weights are kept. 0 to evaluate alone.
            Published: 5 for EPIC-Kitchens, 10 for Kinetics.
        batch: Number of videos in a step. Published: 8 for EPIC-Kitchens, 16 for Kinetics.
        weight_decay: Weight decay of all parameters.
        dropout: Share of the features that is dropped before the classifier.
        seed: Seed of order and dropout.
        save_every: Steps from one saved state to the next; one is saved after each epoch in any case.
    """

    loss: Loss = "published"
    lr: float = setting(1e-5, "(0, 10]")
    epochs: int = setting(5, "[0, 1e5]")
    batch: int = setting(8, "[1, 1e5]")
    weight_decay: float = setting(0.05, "[0, 100]")
    dropout: float = setting(0.5, "[0, 1)")
    seed: int = setting(42, SEED)
    save_every: int = setting(1000, "[1, 1e8]")


def loss_of(logits_BVK: Tensor, label_B: Tensor, loss: Loss) -> Tensor:
    """The mean loss of a batch; see the module's docstring."""
    if loss == "published":
        return F.cross_entropy(video_probabilities(logits_BVK), label_B)
    return F.cross_entropy(logits_BVK.mean(1), label_B)


class Tuner:
    """Tunes a temporal part, in place.

    Args:
        model: The temporal part and its classifier, on the device where they are to be trained.
        examples: The training videos.
        labels: Their classes.
        options: The recipe.
        folder: Folder of the saved state.
        run: Plain data that identifies the run: what may not change between an interruption and its resumption.

    Attributes:
        step: Number of steps so far.
        history: A row for the state before training and one for each complete epoch: its number, the mean loss of its
            steps, and what `fit` was told of the model then.
    """

    def __init__(
        self,
        model: TemporalClassifier,
        examples: Examples,
        labels: Sequence[int],
        options: TuningOptions,
        folder: Path,
        run: dict[str, Any],
    ) -> None:
        self._model, self._examples, self._labels = model, examples, labels
        self._options, self._folder, self._run = options, folder, run
        model.drop.p = options.dropout
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=options.weight_decay)
        self.step = 0
        self.history: list[Row] = []
        self._losses: list[float] = []

    @property
    def state_file(self) -> Path:
        """The file that a run resumes from."""
        return self._folder / "tuning.pt"

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches; the last one of an epoch may be smaller."""
        return -(-len(self._labels) // self._options.batch)

    @property
    def epoch(self) -> int:
        """Number of epochs that are complete."""
        return self.step // self.steps_per_epoch

    def resume(self) -> bool:
        """Goes on from the saved state, if there is one.

        Raises:
            UserError: If it is damaged, or belongs to a run with other settings.
        """
        if not self.state_file.exists():
            return False
        saved = read_state(self.state_file, self._run, "run")
        self._model.load_state_dict(saved["model"])
        self._optimizer.load_state_dict(saved["optimizer"])
        self.step, self._losses, self.history = saved["step"], saved["losses"], saved["history"]
        return True

    def fit(self, look: Callable[[], Row], report: Callable[[Row], None]) -> None:
        """Trains to the end, from wherever `resume` has put it.

        Args:
            look: What to say of the model as it is, before training and after each epoch.
            report: Is given each row of the history when it is there.

        Raises:
            UserError: If the loss is not finite.
        """
        if not self.history:
            self._close({"epoch": 0} | look(), report)
        while self.epoch < self._options.epochs:
            self._model.train()
            self._one_epoch()
            mean = sum(self._losses) / len(self._losses)
            self._losses = []
            self._close({"epoch": self.epoch, "train_loss": mean} | look(), report)

    def _close(self, row: Row, report: Callable[[Row], None]) -> None:
        self.history.append(row)
        self._save()
        report(row)

    def _one_epoch(self) -> None:
        options, first = self._options, self.epoch * self.steps_per_epoch
        order = torch.randperm(
            len(self._labels), generator=torch.Generator().manual_seed(step_seed(options.seed, first))
        )
        left = list(order.split(options.batch))[self.step - first :]
        for index in progress(left, f"epoch {self.epoch + 1}", unit="step"):
            self._losses.append(self._one_step(index.tolist()))
            self.step += 1
            if self.step % options.save_every == 0 and self.step % self.steps_per_epoch:
                self._save()

    def _one_step(self, index: Sequence[int]) -> float:
        tokens_BVSD, label_B = batch_of(self._examples, self._labels, index, self._model.cls_token.device)
        torch.manual_seed(step_seed(self._options.seed, self.step) + 1)
        loss = loss_of(self._model(tokens_BVSD), label_B, self._options.loss)
        if not torch.isfinite(loss):
            raise UserError(f"the loss is not finite at step {self.step}; lower lr (it is {self._options.lr:g})")
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return loss.item()

    def _save(self) -> None:
        """Writes the state, whole or not at all."""
        saved = {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
            "losses": self._losses,
            "history": self.history,
            "run": self._run,
        }
        replace_file(self.state_file, partial(torch.save, saved))
