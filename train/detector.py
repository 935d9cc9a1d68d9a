"""Trains the dense Doom detector, and scores it on every split.

    python -m train.detector out=runs/detector steps=5000
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
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from envs.doom.augment import augment
from envs.doom.average_precision import MeanAveragePrecision50
from envs.doom.boxes import detections
from envs.doom.clips import load_split
from envs.doom.detector import WEIGHTS, build_detector, load_detector, save_detector
from envs.doom.labels import CLASS_NAMES
from envs.doom.loss import detection_loss
from envs.doom.task import preprocess
from envs.task import Clip, Target


@dataclass
class Options:
    """What `key=value` can set.

    Attributes:
        out: Folder for the log, the training state and the weights.
        cache: Cache of recorded clips; empty for the default one.
        clips: Recordings to learn from.
        frames: Frames of each recording.
        stride: Tics (1/35 s) between the frames.
        steps: Optimiser steps of the whole training.
        batch: Frames of a step.
        lr: Highest learning rate.
        weight_decay: Of the matrices of the blocks; the rest has none.
        warmup: Steps until the rate is reached.
        decay: Share of the steps, at the end, over which the rate falls to zero.
        ema: Decay of the average of the weights.
        seed: Of weights, frames and augmentation.
        save_every: Steps between two saved states.
        precision: `fp32`, or `bf16` for forward and backward (the weights stay fp32).
        compile: Whether to use torch.compile.
        install: With `--evaluate`, ship these weights and write the model card.
    """

    out: str = "runs/detector"
    cache: str = ""
    clips: int = 960
    frames: int = 24
    stride: int = 14
    steps: int = 5000
    batch: int = 16
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 100
    decay: float = 0.5
    ema: float = 0.998
    seed: int = 0
    save_every: int = 200
    precision: str = "bf16"
    compile: bool = False
    install: bool = False

    @property
    def cache_folder(self) -> Path | None:
        """The folder that `cache` names, None for the default one."""
        return Path(self.cache) if self.cache else None


def parse(arguments: list[str]) -> Options:
    """Options from `key=value` words.

    Raises:
        ValueError: If a key is unknown or a value has the wrong type.
    """
    kinds = {field.name: field for field in fields(Options)}
    options = Options()
    for word in arguments:
        key, separator, value = word.partition("=")
        if not separator or key not in kinds:
            raise ValueError(f"unknown option {word!r}; use key=value with one of {', '.join(kinds)}")
        kind = type(getattr(options, key))
        if kind is bool and value not in ("true", "false"):
            raise ValueError(f"{key} must be true or false, got {value!r}")
        try:
            setattr(options, key, value == "true" if kind is bool else kind(value))
        except ValueError as error:
            raise ValueError(f"{key} must be {kind.__name__}, got {value!r}") from error
    if options.precision not in ("bf16", "fp32"):
        raise ValueError(f"precision must be bf16 or fp32, got {options.precision!r}")
    return options


class Frames:
    """Single frames of many clips, drawn at random with rare classes favoured."""

    def __init__(self, clips: list[Clip], seed: int) -> None:
        self.clips = clips
        self.places = [(c, t) for c, clip in enumerate(clips) for t in range(len(clip))]
        self.generator = torch.Generator().manual_seed(seed)
        counts = torch.stack(
            [
                torch.bincount(self.target(place)["labels"], minlength=len(CLASS_NAMES)).clamp(max=1)
                for place in self.places
            ]
        )
        rarity_C = (counts.sum(0).float().mean() / counts.sum(0).clamp_min(1)).sqrt()
        self.weights = 0.3 + (counts * rarity_C).amax(1)

    def target(self, place: tuple[int, int]) -> Target:
        """Labels of a frame."""
        return self.clips[place[0]].targets[place[1]]

    def batch(self, size: int) -> tuple[Tensor, list[Target]]:
        """Augmented frames (B, H, W, 3) and their labels."""
        chosen = torch.multinomial(self.weights, size, generator=self.generator).tolist()
        places = [self.places[k] for k in chosen]
        frames_BHWC = torch.stack([self.clips[c].frames_THWC[t] for c, t in places])
        return augment(frames_BHWC, [self.target(place) for place in places], self.generator)


def rate(step: int, options: Options) -> float:
    """Share of the learning rate at a step: warm-up, plateau, linear decay."""
    left = (options.steps - step) / max(1.0, options.decay * options.steps)
    return max(0.0, min(1.0, (step + 1) / options.warmup, left))


def train(options: Options) -> None:
    """Trains, or goes on training, and writes `OUT/detector.safetensors`."""
    torch.manual_seed(options.seed)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    model = build_detector()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(options.ema))
    optimizers = _optimizers(model, options)
    clips = load_split("detector", options.clips, options.frames, options.stride, options.cache_folder)
    frames = Frames(clips, options.seed)
    step = _resume(out, model, average, optimizers, frames)
    twin = _twin(model) if options.precision == "bf16" else model
    forward = torch.compile(twin) if options.compile else twin
    losses, started, first = 0.0, time.monotonic(), step
    while step < options.steps:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = options.lr * rate(step, options)
        images, targets = frames.batch(options.batch)
        outputs = forward(preprocess(images).to(next(twin.parameters()).dtype))
        loss = detection_loss(outputs, targets).mean()
        if not math.isfinite(loss.item()):
            raise RuntimeError(f"the loss is not finite at step {step}; lower lr or use precision=fp32")
        twin.zero_grad()
        loss.backward()
        _collect(model, twin)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        twin.load_state_dict(model.state_dict())
        average.update_parameters(model)
        step += 1
        losses += loss.item()
        if step % 20 == 0:
            speed = (step - first) / (time.monotonic() - started)
            _log(out, f"step {step} loss {losses / 20:.4f} {speed * options.batch:.1f} frames/s")
            losses = 0.0
        if step % options.save_every == 0 or step == options.steps:
            _save(out, step, model, average, optimizers, frames)


def _optimizers(model: nn.Module, options: Options) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for everything else."""
    blocks = [p for name, p in model.named_parameters() if name.startswith("blocks.") and p.dim() == 2]
    chosen = {id(p) for p in blocks}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(blocks, weight_decay=options.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _twin(model: nn.Module) -> nn.Module:
    """A copy in bfloat16 that computes the gradients; on a CPU autocast spends its gain on conversions."""
    twin = copy.deepcopy(model).bfloat16().train()
    twin.patch_embed.to(memory_format=torch.channels_last)
    return twin


def _collect(model: nn.Module, twin: nn.Module) -> None:
    """Hands the gradients that the twin computed to the single-precision parameters."""
    if twin is not model:
        for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
            parameter.grad = None if other.grad is None else other.grad.float()


def _save(
    out: Path,
    step: int,
    model: nn.Module,
    average: AveragedModel,
    optimizers: list[torch.optim.Optimizer],
    frames: Frames,
) -> None:
    state = {
        "step": step,
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "generator": frames.generator.get_state(),
    }
    torch.save(state, out / "state.tmp")
    (out / "state.tmp").replace(out / "state.pt")
    save_detector(average.module, out / "detector.safetensors")


def _resume(
    out: Path,
    model: nn.Module,
    average: AveragedModel,
    optimizers: list[torch.optim.Optimizer],
    frames: Frames,
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
    frames.generator.set_state(state["generator"])
    _log(out, f"resumed at step {state['step']}")
    return int(state["step"])


def _log(out: Path, line: str) -> None:
    print(line, flush=True)
    with (out / "log.txt").open("a") as file:
        file.write(line + "\n")


@torch.inference_mode()
def score(model: nn.Module, clips: list[Clip]) -> dict[str, float]:
    """mAP50 of a split, `stale` (predictions of one second earlier) and the AP of each class."""
    fresh, stale = (MeanAveragePrecision50(len(CLASS_NAMES)) for _ in range(2))
    now = MeanAveragePrecision50(len(CLASS_NAMES))
    for clip in clips:
        found = []
        for part in clip.frames_THWC.split(16):
            found += detections(model(preprocess(part)))
        late = round(clip.fps)
        for t, target in enumerate(clip.targets):
            fresh.add(clip.name, found[t], target)
            if t >= late:
                stale.add(clip.name, found[t - late], target)
                now.add(clip.name, found[t], target)
    by_class = {CLASS_NAMES[k]: value for k, value in fresh.by_class().items()}
    # `later` is the fresh score on exactly the frames that `stale` is scored on.
    return {"mAP50": fresh.compute(), "stale": stale.compute(), "later": now.compute(), **by_class}


def evaluate(options: Options) -> dict[str, dict[str, float]]:
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
        write_card(WEIGHTS.parent / "README.md", options, scores)
    return scores


def write_card(path: Path, options: Options, scores: dict[str, dict[str, float]]) -> None:
    """Writes the figures between the marks of the model card; the text around them is kept.

    Raises:
        ValueError: If the card lacks the marks.
    """
    begin, end = "<!-- figures -->", "<!-- /figures -->"
    card = path.read_text()
    if begin not in card or end not in card:
        raise ValueError(f"{path} has no lines {begin} and {end} to write the figures between")
    hidden = ("out", "cache", "install", "save_every")
    command = " ".join(f"{key}={value}" for key, value in asdict(options).items() if key not in hidden)
    columns = ("mAP50", "later", "stale")
    lines = [f"Options: `{command}`", ""]
    lines += ["| split | mAP50 | same, from second 1 | stale by 1 s |", "|---|---|---|---|"]
    for split, row in scores.items():
        lines.append(f"| {split} | " + " | ".join(f"{row[column]:.3f}" for column in columns) + " |")
    lines += ["", "AP50 by class on `test`:", "", "| class | AP50 |", "|---|---|"]
    lines += [f"| {name} | {scores['test'][name]:.3f} |" for name in CLASS_NAMES if name in scores["test"]]
    head, tail = card.split(begin)[0], card.split(end)[1]
    path.write_text("\n".join([head + begin, "", *lines, "", end]) + tail)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    evaluating = "--evaluate" in words
    try:
        options = parse([word for word in words if word != "--evaluate"])
        evaluate(options) if evaluating else train(options)
    except (ValueError, OSError) as error:
        print(f"train.detector: {error}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
