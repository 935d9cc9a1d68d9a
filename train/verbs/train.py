"""Trains a small factorised ViViT on clips in a folder for each verb, and scores it on unseen seeds and maps.

    python -m envs.doom.export_verbs --split train --count 1600 --out FOLDER       (and --split val, test, test_maps)
    python -m train.verbs root=FOLDER out=runs/verbs

AdamW with a warm-up and a cosine, random views (`train.verbs.augment`). At first the spatial part alone learns, to name
the verb from a single pair of frames: at the same cost it sees many more clips, and what the temporal part gets to see
then means something from its first step. What is random in a step depends on the seed and the number of the step alone.

Training resumes from `OUT/state.pt`, written every `save_every` steps; at the end `OUT/verbs.safetensors` is the model
and `OUT/README.md` its card. Where training is complete, the same command scores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from envs.actions import ClassFolders
from envs.vivit import ViewPlan, ViViT
from envs.vivit.model import TUBELET, tubelets
from envs.vivit.weights import ViViTSizes, load_vivit, save_vivit
from eventful import cli
from eventful.checks.ranges import setting
from eventful.errors import UserError
from train.config import check_settings, load_config
from train.files.folder_lock import only_run_in
from train.recipe.training import FREE, Recipe, Training
from train.verbs.augment import RandomViews
from train.verbs.card import hits, score, write_card
from train.verbs.clips import LabelledTensors, small_clips, views_of

COMMAND = "train.verbs"
_MARGIN = 1.125
"""Shorter side of the frames in memory over that of a view."""

_FILTER_GAIN = 2.0
"""Deviation of the first filters over `timm`'s, as pictures change little from frame to frame."""


@dataclass
class VerbsConfig(Recipe):
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
        smoothing: Label smoothing.
        pairs: Share of the steps, at the beginning, in which the spatial part alone learns, from pairs of frames.

    Examples:
        python -m envs.doom.export_verbs --split train --count 1600 --out clips
        python -m train.verbs root=clips out=runs/verbs
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
    smoothing: float = setting(0.1, "[0, 1)")
    pairs: float = setting(0.6, "[0, 1]")


_FREE = (*FREE, "root", "out", "test_splits", "starts")
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
    with only_run_in(Path(config.out)):
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


class _Run:
    """A training and what it has come to."""

    def __init__(self, config: VerbsConfig, data: ClassFolders) -> None:
        self._config, self._data, self._out = config, data, Path(config.out)
        sizes = (config.size, len(data.classes), config.frames, config.dim, config.heads, config.depth)
        torch.manual_seed(config.seed)
        with cli.user_input("size, frames"):
            self._vivit = ViViT(**dataclasses.asdict(ViViTSizes(*sizes, config.temporal_depth)), dropout=config.dropout)
            self._plan = ViewPlan(config.size, 1, config.frames, config.starts, 1)
        self._clips = data.videos(config.train_split)
        see_motion(self._vivit.spatial)
        self._of_pairs = nn.Linear(config.dim, len(data.classes))
        model = nn.ModuleList([self._vivit, self._of_pairs])
        self._training = Training(model, {model: 1.0}, config, self._settings, self._out, "clips")

    def fit(self) -> None:
        """Trains to the end, from the saved state if there is one."""
        if not self._training.resume():
            return
        config, split = self._config, self._config.test_splits[0]
        small: LabelledTensors = small_clips(self._clips, round(_MARGIN * config.size), config.frames)
        views = RandomViews(small, self._data.classes, config.size, config.frames)
        pairs = RandomViews(small, self._data.classes, config.size, TUBELET)
        watched = views_of(self._data.videos(split), self._plan)

        def look() -> str:
            return f"{split} {hits(self._vivit, watched).double().mean().item():.4f}"

        self._training.fit(partial(self._loss, views, pairs), look)

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
            self._training.log(
                f"{split} top-1 {found.top1.value:.4f}, first frame repeated {found.one_frame.value:.4f}", tell=print
            )
        hidden = ("root", "out", "save_every", "look_every", "threads")
        recipe = {key: value for key, value in dataclasses.asdict(config).items() if key not in hidden}
        recipe["test_splits"] = f"[{','.join(config.test_splits)}]"
        write_card(self._out / "README.md", recipe, self._data.classes, len(self._clips), scores)
        return path

    def _loss(self, views: RandomViews, pairs: RandomViews, generator: torch.Generator) -> Tensor:
        config = self._config
        if self._training.step < config.pairs * config.steps:
            pair_B2CHW, label_B = pairs.batch(config.batch * (config.frames // TUBELET), generator)
            logits_BK = self._of_pairs(self._vivit.spatial(next(tubelets(pair_B2CHW))))
        else:
            views_BTCHW, label_B = views.batch(config.batch, generator)
            logits_BK = self._vivit(views_BTCHW)
        return F.cross_entropy(logits_BK, label_B, label_smoothing=config.smoothing)

    @property
    def _settings(self) -> dict[str, object]:
        """What must be the same where a run goes on."""
        kept = {key: value for key, value in dataclasses.asdict(self._config).items() if key not in _FREE}
        return kept | {"classes": list(self._data.classes), "clips": [clip.name for clip in self._clips]}


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
