"""Trains the dense Doom detector, and scores it on every split.

    python -m train.detector out=runs/detector steps=3600
    python -m train.detector --evaluate out=runs/detector

Muon (Jordan et al. 2024) for the matrices of the blocks and AdamW for the rest, with a warm-up, a constant
rate and a linear decay, an exponential average of the weights, frames drawn so that rare classes are seen
often. Training resumes from `OUT/state.pt`, written every `save_every` steps. `--evaluate` prints mAP50 on
every split, and that of the frame one second earlier (`stale`); with `install=true` it also copies the
weights into the package and writes the figures into the model card.
"""

from __future__ import annotations

import copy
import math
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from envs.doom.clips import load_split
from envs.doom.detector import WEIGHTS, build_detector, load_detector, save_detector
from envs.doom.loss import detection_loss
from envs.doom.task import normalise
from eventful import cli
from eventful.checks.ranges import SEED, setting
from eventful.console.output import say
from eventful.disk.full import append
from eventful.disk.replaced import replace_file
from eventful.errors import UserError
from train.config import check_settings, load_config
from train.detector.card import write_card
from train.detector.crops import cut_windows, window_outputs
from train.detector.frames import LabelledFrames
from train.detector.score import score
from train.files.folder_lock import only_run_in

COMMAND = "python -m train.detector"


@dataclass
class DetectorConfig:
    """Training of the Doom detector.

    Attributes:
        out: Folder for the log, the training state and the weights.
        cache: Cache of recorded clips; empty for the default one.
        clips: Number of recordings to learn from.
        frames: Number of frames of each recording.
        stride: Tics (1/35 s) between the frames.
        steps: Optimiser steps of the whole training.
        batch: Number of frames of a step; three times as many windows while training on windows.
        windows: Share of the steps, at the beginning, that train on windows of a third of a frame only; later
            every second step does.
        lr: Peak learning rate.
        weight_decay: Weight decay of the matrices of the blocks; the rest has none.
        warmup: Steps until the peak learning rate is reached.
        decay: Share of the steps, at the end, over which the learning rate falls to zero.
        ema: Decay of the average of the weights, reached gradually.
        seed: Seed of weights, frames and augmentation.
        save_every: Steps between two saved states.
        precision: Data type of forward and backward, `fp32` or `bf16` (the weights stay fp32).
        workers: Number of threads that share the work of a step, each with its own part of the batch.
        install: Whether `--evaluate` ships these weights and writes the model card.

    Examples:
        python -m train.detector out=runs/detector steps=3600
        python -m train.detector --evaluate out=runs/detector
    """

    out: str = "runs/detector"
    cache: str = ""
    clips: int = setting(960, "[1, 1e6]")
    frames: int = setting(24, "[1, 1e5]")
    stride: int = setting(14, "[1, 1e5]")
    steps: int = setting(3600, "[1, 1e8]")
    batch: int = setting(16, "[1, 1e5]")
    windows: float = setting(0.6, "[0, 1]")
    lr: float = setting(1e-3, "(0, 10]")
    weight_decay: float = setting(0.05, "[0, 100]")
    warmup: int = setting(100, "[1, 1e8]")
    decay: float = setting(0.5, "(0, 1]")
    ema: float = setting(0.998, "[0, 1)")
    seed: int = setting(0, SEED)
    save_every: int = setting(200, "[1, 1e8]")
    precision: Literal["bf16", "fp32"] = "bf16"
    workers: int = setting(2, "[1, 1024]")
    install: bool = False

    @property
    def cache_folder(self) -> Path | None:
        """The folder that `cache` names, None for the default one."""
        return Path(self.cache) if self.cache else None


def check(options: DetectorConfig) -> None:
    """Refuses what does not go together.

    Raises:
        UserError: Naming the settings.
    """
    check_settings(options)
    if options.batch % options.workers:
        raise UserError(f"batch={options.batch} must be a multiple of workers={options.workers}")


class Worker:
    """Computes the gradients of one part of every batch, on one thread.

    It has a copy of the model. In `bf16` the copy is in bfloat16 throughout: on a CPU, autocast spends its gain on
    conversions. One thread a worker, because two that meet at every operation wait for each other more than they
    compute once the machine has other work too.
    """

    def __init__(self, model: VisionTransformer, frames: LabelledFrames, options: DetectorConfig, index: int) -> None:
        self.dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
        self.model = copy.deepcopy(model).to(self.dtype).train()
        self.frames = frames
        self.size = options.batch // options.workers
        self.generator = torch.Generator().manual_seed(options.seed * 1000 + index)

    def gradients(self, model: nn.Module, windows: bool) -> float:
        """Takes over the weights of `model`, computes the gradients; returns the mean loss."""
        torch.set_num_threads(1)
        self.model.load_state_dict(model.state_dict())
        self.model.zero_grad()
        images, targets = self.frames.batch(self.size * (3 if windows else 1), self.generator)
        if windows:
            images, targets, tokens_BW = cut_windows(images, targets, self.generator)
            outputs = window_outputs(self.model, normalise(images).to(self.dtype), tokens_BW)
        else:
            outputs = self.model(normalise(images).to(self.dtype))
        loss = detection_loss(outputs, targets).mean()
        loss.backward()
        return loss.item()


def rate(step: int, options: DetectorConfig) -> float:
    """Share of the learning rate at a step: warm-up, plateau, linear decay."""
    left = (options.steps - step) / max(1.0, options.decay * options.steps)
    return max(0.0, min(1.0, (step + 1) / options.warmup, left))


def train(options: DetectorConfig) -> None:
    """Trains, or goes on training, and writes `OUT/detector.safetensors`."""
    with only_run_in(Path(options.out)):
        _train(options, Path(options.out))


def _train(options: DetectorConfig, out: Path) -> None:
    torch.manual_seed(options.seed)
    model = build_detector()
    average = AveragedModel(model, avg_fn=partial(_average, decay=options.ema))
    optimizers = _optimizers(model, options)
    clips = load_split("detector", options.clips, options.frames, options.stride, options.cache_folder)
    frames = LabelledFrames(clips)
    workers = [Worker(model, frames, options, k) for k in range(options.workers)]
    torch.set_num_threads(1)
    step = _resume(out, model, average, optimizers, workers)
    losses, started, first = 0.0, time.monotonic(), step
    with ThreadPoolExecutor(options.workers) as pool:
        while step < options.steps:
            windows = step < options.windows * options.steps or step % 2 == 1
            loss = sum(pool.map(partial(Worker.gradients, model=model, windows=windows), workers)) / len(workers)
            if not math.isfinite(loss):
                raise UserError(f"the loss is not finite at step {step}; lower lr or use precision=fp32")
            _collect(model, workers)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = options.lr * rate(step, options)
            list(pool.map(lambda optimizer: optimizer.step(), optimizers))
            average.update_parameters(model)
            step += 1
            losses += loss
            if step % 20 == 0:
                speed = (step - first) * options.batch / (time.monotonic() - started)
                _log(out, f"step {step} loss {losses / 20:.4f} {speed:.1f} frames/s")
                losses, started, first = 0.0, time.monotonic(), step
            if step % options.save_every == 0 or step == options.steps:
                _save(out, step, model, average, optimizers, workers)


def _optimizers(model: nn.Module, options: DetectorConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, in two halves that run side by side; AdamW for everything else."""
    blocks = [p for name, p in model.named_parameters() if name.startswith("blocks.") and p.dim() == 2]
    chosen = {id(p) for p in blocks}
    others = [p for p in model.parameters() if id(p) not in chosen]
    halves = (blocks[::2], blocks[1::2])
    return [
        *(torch.optim.Muon(half, weight_decay=options.weight_decay, adjust_lr_fn="match_rms_adamw") for half in halves),
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _average(average: Tensor, value: Tensor, count: Tensor | int, decay: float) -> Tensor:
    """Exponential average whose first values do not linger: the decay grows with the count of values."""
    return torch.lerp(value, average, min(decay, (1 + int(count)) / (10 + int(count))))


def _collect(model: nn.Module, workers: list[Worker]) -> None:
    """Gives the model the mean of the workers' gradients, in single precision."""
    for parameter, *others in zip(model.parameters(), *(worker.model.parameters() for worker in workers), strict=True):
        parameter.grad = torch.stack([other.grad.float() for other in others]).mean(0)


def _save(
    out: Path,
    step: int,
    model: nn.Module,
    average: AveragedModel,
    optimizers: list[torch.optim.Optimizer],
    workers: list[Worker],
) -> None:
    state = {
        "step": step,
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "generators": [worker.generator.get_state() for worker in workers],
    }
    replace_file(out / "state.pt", partial(torch.save, state))
    save_detector(average.module, out / "detector.safetensors")


def _resume(
    out: Path,
    model: nn.Module,
    average: AveragedModel,
    optimizers: list[torch.optim.Optimizer],
    workers: list[Worker],
) -> int:
    """Restores the saved state, if there is one; returns the step to go on from."""
    path = out / "state.pt"
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    for worker, generator in zip(workers, state["generators"], strict=True):
        worker.generator.set_state(generator)
    _log(out, f"resumed at step {state['step']}")
    return int(state["step"])


def _log(out: Path, line: str) -> None:
    say(line)
    append(out / "log.txt", line + "\n")


def evaluate(options: DetectorConfig) -> dict[str, dict[str, float]]:
    """Prints the scores of the weights in `OUT` on every split; installs the weights if asked to."""
    path = Path(options.out) / "detector.safetensors"
    model = load_detector(path)
    scores = {}
    for split in ("train", "val", "test", "test_maps"):
        scores[split] = score(model, load_split(split, folder=options.cache_folder))
        print(split, " ".join(f"{key} {value:.3f}" for key, value in scores[split].items()), flush=True)
    if options.install:
        WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, WEIGHTS)
        hidden = ("out", "cache", "install", "save_every")
        recipe = {key: value for key, value in asdict(options).items() if key not in hidden}
        write_card(WEIGHTS.parent / "README.md", recipe, scores)
    return scores


def _main(argv: Sequence[str]) -> None:
    options = load_config(DetectorConfig, [word for word in argv if word != "--evaluate"], COMMAND)
    check(options)
    evaluate(options) if "--evaluate" in argv else train(options)


def main(argv: Sequence[str] | None = None) -> None:
    """Console entry point; `--evaluate` scores what was trained."""
    cli.run(COMMAND, _main, argv)


if __name__ == "__main__":
    main()
