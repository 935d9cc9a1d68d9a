"""A training from its first step to its last, with a log, that goes on to the bit where it was interrupted.

What is random in a step depends on the seed and the number of the step alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eventful.checks.ranges import SEED, THREADS, setting
from eventful.console.output import say
from eventful.disk.full import append
from eventful.disk.replaced import replace_file
from eventful.errors import UserError
from train.files.saved_state import read_state


@dataclass
class Recipe:
    """AdamW with a warm-up and a cosine; to be inherited by the configs of the commands.

    Attributes:
        steps: Number of steps of the whole training.
        batch: Number of examples of a step.
        lr: Peak learning rate.
        weight_decay: Weight decay of matrices; the rest has none.
        warmup: Steps until the peak learning rate is reached.
        seed: Seed of weights, examples and whatever else is random.
        save_every: Steps from one saved state to the next.
        look_every: Steps from one line of the log to the next.
        threads: Number of threads; 0 for torch's choice.
    """

    steps: int = setting(5000, "[1, 1e8]")
    batch: int = setting(16, "[1, 1e5]")
    lr: float = setting(1e-3, "(0, 10]")
    weight_decay: float = setting(0.05, "[0, 100]")
    warmup: int = setting(200, "[0, 1e8]")
    seed: int = setting(0, SEED)
    save_every: int = setting(200, "[1, 1e8]")
    look_every: int = setting(500, "[1, 1e8]")
    threads: int = setting(0, THREADS)


FREE = ("save_every", "look_every", "threads")
"""Settings that may change in an interruption."""


def rate(step: int, recipe: Recipe) -> float:
    """Share of the peak learning rate at a step: a warm-up, then a cosine to zero."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)))


class Training:
    """A model on its way.

    Args:
        model: Model that is trained, in place.
        parts: Its modules, and the share of the learning rate that each has.
        recipe: Settings of the optimisation.
        settings: Everything that must be the same where the training goes on.
        out: Folder of the state and of the log.
        unit: What a batch consists of, in the log.
    """

    def __init__(
        self,
        model: nn.Module,
        parts: Mapping[nn.Module, float],
        recipe: Recipe,
        settings: Mapping[str, object],
        out: Path,
        unit: str,
    ) -> None:
        self._model, self._recipe, self._settings, self._out, self._unit = model, recipe, settings, out, unit
        groups = [group for part in parts for group in _groups(part, recipe.weight_decay)]
        self._optimizer = torch.optim.AdamW(groups, lr=recipe.lr)
        self._shares = [share for part, share in parts.items() for _ in _groups(part, recipe.weight_decay)]
        self.step = 0

    def resume(self) -> bool:
        """Takes up the saved state, if there is one; whether steps are left.

        Raises:
            UserError: If the state is damaged, or of other settings.
        """
        path = self._out / "state.pt"
        if path.exists():
            self._load(path)
        return self.step < self._recipe.steps

    def fit(self, loss: Callable[[torch.Generator], Tensor], look: Callable[[], str]) -> None:
        """Trains to the last step.

        Args:
            loss: Loss of a step, given a generator for its examples; whatever else is random has been seeded.
            look: What is to be said of the model in the log, beside the loss.

        Raises:
            UserError: If the loss is not finite.
        """
        recipe, losses, started = self._recipe, [], time.monotonic()
        while self.step < recipe.steps:
            losses.append(self._one_step(loss))
            self.step += 1
            last = self.step == recipe.steps
            if self.step % recipe.look_every == 0 or last:
                speed = len(losses) * recipe.batch / (time.monotonic() - started)
                mean = sum(losses) / len(losses)
                self.log(f"step {self.step} loss {mean:.4f} {look()} {speed:.1f} {self._unit}/s")
                losses, started = [], time.monotonic()
            if self.step % recipe.save_every == 0 or last:
                self._save()

    def log(self, line: str, tell: Callable[[str], None] = say) -> None:
        """Says a line, or tells it by `print` if it is a result, and adds it to `OUT/log.txt`."""
        tell(line)
        self._out.mkdir(parents=True, exist_ok=True)
        append(self._out / "log.txt", line + "\n")

    def _one_step(self, loss: Callable[[torch.Generator], Tensor]) -> float:
        recipe = self._recipe
        seed = step_seed(recipe.seed, self.step)
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed + 1)
        self._model.train()
        value = loss(generator)
        if not torch.isfinite(value):
            raise UserError(f"the loss is not finite at step {self.step}; lower lr (it is {recipe.lr:g})")
        for group, share in zip(self._optimizer.param_groups, self._shares, strict=True):
            group["lr"] = recipe.lr * share * rate(self.step, recipe)
        self._optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        return value.item()

    def _save(self) -> None:
        state = {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict(), "step": self.step}
        replace_file(self._out / "state.pt", partial(torch.save, state | {"settings": dict(self._settings)}))

    def _load(self, path: Path) -> None:
        state = read_state(path, self._settings, "settings")
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.log(f"resumed at step {self.step}")


def step_seed(seed: int, step: int) -> int:
    """A seed for each step, far from those of other seeds; even, so that the next number is free, too."""
    return (seed * 1_000_003 + step) * 2


def _groups(part: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters for an optimiser: matrices with weight decay, the rest without."""
    parameters = list(part.parameters())
    matrices, rest = ([p for p in parameters if (p.dim() < 2) is small] for small in (False, True))
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
