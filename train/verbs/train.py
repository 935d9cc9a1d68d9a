"""Trains a small factorised ViViT on clips in a folder for each verb, and scores it on unseen seeds and maps.

    python -m envs.doom.export_verbs --split train --count 1600 --out FOLDER       (and --split val, test, test_maps)
    python -m train.verbs root=FOLDER out=runs/verbs

AdamW with a warm-up and a cosine, random views (`train.verbs.augment`). At first the spatial part alone learns, to name
the verb from a single pair of frames: at the same cost it sees many more clips, and what the temporal part gets to see
then means something from its first step. What is random in a step depends on the seed and the number of the step alone.

Training resumes from `OUT/state.pt`, written every `save_every` steps; at the end `OUT/verbs.safetensors` is the
model and `OUT/README.md` its card. Where training is complete, the same command scores.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from envs.actions import ClassFolders
from envs.vivit import ViewPlan, ViViT
from envs.vivit.model import TUBELET, tubelets
from envs.vivit.weights import ViViTSizes, load_vivit, save_vivit
from eventful import cli
from eventful.checks.ranges import SEED, THREADS, setting
from eventful.errors import UserError
from train.config import check_settings, load_config
from train.files.replaced import replace_file
from train.verbs.augment import RandomViews
from train.verbs.card import hits, score, write_card
from train.verbs.clips import LabelledTensors, small_clips, views_of

COMMAND = "train.verbs"
_MARGIN = 1.125
"""Shorter side of the frames in memory over that of a view."""

_FILTER_GAIN = 2.0
"""Deviation of the first filters over `timm`'s, as pictures change little from frame to frame."""


@dataclass
class VerbsConfig:
    """A small ViViT for clips in a folder for each class.

    Attributes:
        root: Folder of the splits, each with a folder for each class.
        train_split: Split to train on.
        test_splits: Splits to score on; the first one is looked at during training.
        out: Folder for the model, its card and the state to resume from.
        size: Side of a view in pixels, a multiple of 16.
        frames: Frames of a view, an even number.
        starts: Views of a clip that is scored, spread over its time.
        dim: Number of channels.
        heads: Number of attention heads.
        depth: Number of blocks of the spatial part.
        temporal_depth: Number of blocks of the temporal part.
        dropout: Share of the features that is dropped before the classifier.
        steps: Number of steps of the whole training.
        pairs: Share of the steps, at the beginning, in which the spatial part alone learns, from pairs of frames.
        batch: Number of clips of a step.
        lr: Peak learning rate.
        weight_decay: Weight decay of matrices; the rest has none.
        warmup: Steps until the peak learning rate is reached.
        smoothing: Label smoothing.
        seed: Seed of weights, views and dropout.
        save_every: Steps from one saved state to the next.
        look_every: Steps from one look at the first of the test splits to the next.
        threads: Number of threads; 0 for torch's choice.
    """

    root: str = "???"
    train_split: str = "train"
    test_splits: list[str] = field(default_factory=lambda: ["val"])
    out: str = "runs/verbs"
    size: int = setting(64, "[16, 4096]")
    frames: int = setting(16, "[2, 1024]")
    starts: int = setting(2, "[1, 1000]")
    dim: int = setting(128, "[1, 8192]")
    heads: int = setting(4, "[1, 256]")
    depth: int = setting(4, "[1, 256]")
    temporal_depth: int = setting(2, "[1, 256]")
    dropout: float = setting(0.1, "[0, 1)")
    steps: int = setting(5000, "[1, 1e8]")
    pairs: float = setting(0.6, "[0, 1]")
    batch: int = setting(16, "[1, 1e5]")
    lr: float = setting(1e-3, "(0, 10]")
    weight_decay: float = setting(0.05, "[0, 100]")
    warmup: int = setting(200, "[0, 1e8]")
    smoothing: float = setting(0.1, "[0, 1)")
    seed: int = setting(0, SEED)
    save_every: int = setting(200, "[1, 1e8]")
    look_every: int = setting(500, "[1, 1e8]")
    threads: int = setting(0, THREADS)


_FREE = ("root", "out", "test_splits", "save_every", "look_every", "threads", "starts")
"""Settings that may change in an interruption."""


def train(config: VerbsConfig) -> Path:
    """Trains, or goes on training, scores the model, and returns its file.

    Raises:
        UserError: For settings that cannot be, the data, or a state of other settings.
        VideoError: If a clip cannot be read.
    """
    _check(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    run = _Run(config, ClassFolders(config.root))
    run.fit()
    return run.finish()


@torch.no_grad()
def see_motion(spatial: VisionTransformer) -> None:
    """Gives a new spatial part smooth filters, three quarters of which see what changes between the frames of a pair.

    Freshly drawn weights see noise of single pixels in both frames, and the little that they have to do with each other
    takes many steps to be found.
    """
    weight_D6HW = spatial.patch_embed.proj.weight
    coarse_DCHW = torch.randn(len(weight_D6HW), 3, 4, 4)
    smooth_DCHW = F.interpolate(coarse_DCHW, weight_D6HW.shape[-2:], mode="bicubic")
    smooth_DCHW *= _FILTER_GAIN * weight_D6HW.std() / smooth_DCHW.std()
    weight_D6HW[:, :3], weight_D6HW[:, 3:] = smooth_DCHW, smooth_DCHW
    weight_D6HW[: 3 * len(weight_D6HW) // 4, 3:] *= -1


def rate(step: int, config: VerbsConfig) -> float:
    """Share of the peak learning rate at a step: a warm-up, then a cosine to zero."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - config.warmup) / max(config.steps - config.warmup, 1)))


class _Run:
    """A training and what it has come to."""

    def __init__(self, config: VerbsConfig, data: ClassFolders) -> None:
        self._config, self._data, self._out = config, data, Path(config.out)
        sizes = (config.size, len(data.classes), config.frames, config.dim, config.heads, config.depth)
        torch.manual_seed(config.seed)
        with cli.user_input("size, frames"):
            self._vivit = ViViT(**dataclasses.asdict(ViViTSizes(*sizes, config.temporal_depth)), dropout=config.dropout)
            self._plan = ViewPlan(config.size, 1, config.frames, config.starts, 1)
        see_motion(self._vivit.spatial)
        self._of_pairs = nn.Linear(config.dim, len(data.classes))
        groups: list[list[nn.Parameter]] = [[], []]
        for parameter in (*self._vivit.parameters(), *self._of_pairs.parameters()):
            groups[parameter.dim() < 2].append(parameter)
        decays = ({"params": groups[0], "weight_decay": config.weight_decay}, {"params": groups[1], "weight_decay": 0})
        self._optimizer = torch.optim.AdamW(decays, lr=config.lr)
        self._clips = data.videos(config.train_split)
        self._step = 0

    def fit(self) -> None:
        """Trains to the end, from the saved state if there is one."""
        config = self._config
        self._resume()
        if self._step >= config.steps:
            return
        small: LabelledTensors = small_clips(self._clips, round(_MARGIN * config.size), config.frames)
        views = RandomViews(small, self._data.classes, config.size, config.frames)
        pairs = RandomViews(small, self._data.classes, config.size, TUBELET)
        watched = views_of(self._data.videos(config.test_splits[0]), self._plan)
        losses, started = [], time.monotonic()
        while self._step < config.steps:
            of_pairs = self._step < config.pairs * config.steps
            losses.append(self._one_step(pairs if of_pairs else views, of_pairs))
            self._step += 1
            if self._step % config.look_every == 0 or self._step == config.steps:
                top1 = hits(self._vivit, watched).double().mean().item()
                speed = len(losses) * config.batch / (time.monotonic() - started)
                mean = sum(losses) / len(losses)
                self._log(f"step {self._step} loss {mean:.4f} {config.test_splits[0]} {top1:.4f} {speed:.1f} clips/s")
                losses, started = [], time.monotonic()
            if self._step % config.save_every == 0 or self._step == config.steps:
                self._save()

    def finish(self) -> Path:
        """Writes the model, scores what was written, and writes its card."""
        config, path = self._config, self._out / "verbs.safetensors"
        save_vivit(self._vivit, path)
        written = load_vivit(path)
        scores = {}
        for split in config.test_splits:
            clips = views_of(self._data.videos(split), self._plan)
            scores[split] = score(written, clips, len(self._data.classes))
            found = scores[split]
            self._log(f"{split} top-1 {found.top1.value:.4f}, first frame repeated {found.one_frame.value:.4f}")
        hidden = ("root", "out", "save_every", "look_every", "threads")
        recipe = {key: value for key, value in dataclasses.asdict(config).items() if key not in hidden}
        recipe["test_splits"] = f"[{','.join(config.test_splits)}]"
        write_card(self._out / "README.md", recipe, self._data.classes, len(self._clips), scores)
        return path

    def _one_step(self, views: RandomViews, of_pairs: bool) -> float:
        config = self._config
        seed = (config.seed * 1_000_003 + self._step) * 2
        count = config.batch * (config.frames // TUBELET if of_pairs else 1)
        views_BTCHW, label_B = views.batch(count, torch.Generator().manual_seed(seed))
        torch.manual_seed(seed + 1)
        self._vivit.train()
        if of_pairs:
            logits_BK = self._of_pairs(self._vivit.spatial(next(tubelets(views_BTCHW))))
        else:
            logits_BK = self._vivit(views_BTCHW)
        loss = F.cross_entropy(logits_BK, label_B, label_smoothing=config.smoothing)
        if not torch.isfinite(loss):
            raise UserError(f"the loss is not finite at step {self._step}; lower lr (it is {config.lr:g})")
        for group in self._optimizer.param_groups:
            group["lr"] = config.lr * rate(self._step, config)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in self._optimizer.param_groups for p in group["params"]], 1.0)
        self._optimizer.step()
        return loss.item()

    @property
    def _settings(self) -> dict[str, object]:
        """What must be the same where a run goes on."""
        kept = {key: value for key, value in dataclasses.asdict(self._config).items() if key not in _FREE}
        return kept | {"classes": list(self._data.classes), "clips": [clip.name for clip in self._clips]}

    def _save(self) -> None:
        state = {"model": self._vivit.state_dict(), "of_pairs": self._of_pairs.state_dict(), "step": self._step}
        state["optimizer"] = self._optimizer.state_dict()
        replace_file(self._out / "state.pt", partial(torch.save, state | {"settings": self._settings}))

    def _resume(self) -> None:
        path = self._out / "state.pt"
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            now = self._settings
            differing = sorted(key for key in now if state["settings"].get(key) != now[key])
        except Exception as error:
            raise UserError(f"{path} is damaged ({type(error).__name__}); delete it to start anew") from error
        if differing:
            raise UserError(
                f"{path} belongs to a run with other settings ({', '.join(differing)}); choose another out folder, or "
                "delete it to start anew"
            )
        self._vivit.load_state_dict(state["model"])
        self._of_pairs.load_state_dict(state["of_pairs"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._step = state["step"]
        self._log(f"resumed at step {self._step}")

    def _log(self, line: str) -> None:
        print(line, flush=True)
        self._out.mkdir(parents=True, exist_ok=True)
        with (self._out / "log.txt").open("a") as file:
            file.write(line + "\n")


def _check(config: VerbsConfig) -> None:
    check_settings(config)
    if config.dim % config.heads:
        raise UserError(f"dim={config.dim} must be a multiple of heads={config.heads}")
    if not config.test_splits:
        raise UserError("test_splits must name a split")


def _main(argv: Sequence[str]) -> None:
    train(load_config(VerbsConfig, argv, f"python -m {COMMAND}"))


def main() -> None:
    """Console entry point."""
    cli.run(COMMAND, _main)


if __name__ == "__main__":
    main()
