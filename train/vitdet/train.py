"""Trains a ViTDet detector on videos with boxes, and scores it.

    python -m envs.doom.export --format vid --split detector --out FOLDER            (and --split test)
    python -m train.vitdet configs/vitdet_doom.yaml root=FOLDER out=runs/vitdet

The losses of Faster R-CNN (`train.vitdet.losses`), AdamW with a warm-up and a cosine, random views of single frames.
What is random in a step depends on the seed and the number of the step alone. Training resumes from `OUT/state.pt`,
written every `save_every` steps; at the end `OUT/vitdet.safetensors` is the model, which `task=vid weights=...` reads,
and `OUT/README.md` its card. Where training is complete, the same command scores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from envs.vid.labelled import LabelledVideos, Layout, class_list
from envs.vitdet.canvas import Canvas
from envs.vitdet.detector import DetectionHead, vitdet_vid
from envs.vitdet.weights import DetectorFacts, save_detector
from eventful import cli
from eventful.checks.ranges import setting
from eventful.errors import UserError
from policies.content_hash import content_hash
from train.config import check_settings, load_config
from train.files.folder_lock import only_run_in
from train.recipe.training import FREE, Recipe, Training
from train.vitdet.card import write_card
from train.vitdet.frames import RandomFrames
from train.vitdet.losses import DetectionLosses
from train.vitdet.score import score
from train.vitdet.start import PlainStart, start_backbone

COMMAND = "train.vitdet"


@dataclass
class VitdetConfig(Recipe):
    """A ViTDet detector for videos with boxes.

    Attributes:
        root: Folder of the videos.
        layout: `official` (ILSVRC2015), `published` or `coco`, as in `task=vid`.
        classes: Names of the classes; those of ImageNet VID if not given.
        train_split: Split to train on.
        test_splits: Splits to score on.
        out: Folder for the model, its card and the state to resume from.
        weights: Weights file of a detector of the same classes and architecture to start from.
        backbone: A plain vision transformer to start the backbone from.
        canvas: Side of the square canvas in pixels.
        architecture: What differs from ViTDet-B: arguments of `eventful.families.vitdet.vitdet`, and `channels`,
            `hidden` and `anchor` of the head.
        proposals: Most proposals of a frame.
        anchors: Anchors of a frame that the first stage is trained on.
        boxes: Proposals of a frame that the second stage is trained on.
        scales: Smallest and largest size of a view over that of a frame on the canvas.
        backbone_rate: Share of the learning rate that the backbone has.
        precision: Type of the products of forward and backward, `fp32` or `bf16`; weights stay in fp32.

    Examples:
        python -m train.vitdet configs/vitdet_doom.yaml root=doom_vid out=runs/vitdet
    """

    root: str = "???"
    layout: Layout = "official"
    classes: list[str] | None = None
    train_split: str = "train"
    test_splits: list[str] = field(default_factory=lambda: ["val"])
    out: str = "runs/vitdet"
    weights: str | None = None
    backbone: PlainStart = field(default_factory=PlainStart)
    canvas: int = setting(672, "[16, 16384]")
    architecture: dict[str, Any] = field(default_factory=dict)
    proposals: int = setting(300, "[1, 1e5]")
    anchors: int = setting(256, "[1, 1e5]")
    boxes: int = setting(512, "[1, 1e5]")
    scales: list[float] = setting([0.8, 1.6], "(0, 100]")
    backbone_rate: float = setting(1.0, "[0, 100]")
    precision: Literal["fp32", "bf16"] = "fp32"


_FREE = (*FREE, "root", "out", "test_splits")
"""Settings that may change in an interruption."""


def train(config: VitdetConfig) -> Path:
    """Trains, or goes on training, scores the model, and returns its file.

    Raises:
        UserError: For settings that cannot be, the data, or a state of other settings.
        VideoError: If a frame cannot be read.
        OSError: If a file is missing.
    """
    _check(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    with only_run_in(Path(config.out)):
        run = _Run(config)
        run.fit()
        return run.finish()


class _Run:
    """A training and what it has come to."""

    def __init__(self, config: VitdetConfig) -> None:
        self._config, self._out = config, Path(config.out)
        self._classes, self._canvas = class_list(config.classes), Canvas(config.canvas)
        videos = LabelledVideos(Path(config.root), config.layout, self._classes)
        self._split = videos.split(config.train_split)
        self._tests = {name: videos.split(name) for name in config.test_splits}
        torch.manual_seed(config.seed)
        self._vit = self._make(config.weights)
        start_backbone(self._vit, config.backbone)
        head = cast(DetectionHead, self._vit.head)
        self._losses = DetectionLosses(config.anchors, config.boxes)
        backbone = torch.nn.ModuleList(part for name, part in self._vit.named_children() if name != "head")
        parts = {backbone: config.backbone_rate, head: 1.0}
        names = [frame.path.name for sequence in self._split.sequences for frame in sequence.frames]
        settings = {key: value for key, value in dataclasses.asdict(config).items() if key not in _FREE}
        settings["frames"] = content_hash([[s.name for s in self._split.sequences], names])
        self._training = Training(self._vit, parts, config, settings, self._out, "frames")
        self._parts: dict[str, float] = {}

    def fit(self) -> None:
        """Trains to the end, from the saved state if there is one."""
        if not self._training.resume():
            return
        config = self._config
        frames = [frame for sequence in self._split.sequences for frame in sequence.frames]
        low, high = config.scales
        views = RandomFrames(frames, len(self._classes), self._canvas, (low, high))
        self._training.fit(partial(self._loss, views), self._look)

    def finish(self) -> Path:
        """Writes the model, scores what was written, and writes its card."""
        config, path = self._config, self._out / "vitdet.safetensors"
        facts = DetectorFacts(config.canvas, config.classes, config.proposals, config.architecture)
        save_detector(self._vit, path, facts)
        written, scores = self._make(path), {}
        for name, split in self._tests.items():
            scores[name] = score(written, self._canvas, split)
            found = scores[name]
            self._training.log(f"{name} mAP50 {found.published:.4f} (COCO's rule {found.coco:.4f})", tell=print)
        hidden = ("root", "out", "save_every", "look_every", "threads")
        recipe = {key: value for key, value in dataclasses.asdict(config).items() if key not in hidden}
        write_card(self._out / "README.md", recipe, self._classes.names, self._split, scores)
        return path

    def _make(self, weights: str | Path | None) -> Any:
        config = self._config
        with cli.user_input("architecture"):
            return vitdet_vid(config.canvas, len(self._classes), config.proposals, weights, config.architecture)

    def _loss(self, views: RandomFrames, generator: torch.Generator) -> Tensor:
        frames_B3EE, targets = views.batch(self._config.batch, generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._config.precision == "bf16"):
            features_BDYX = self._vit.forward_features(frames_B3EE)
            losses = self._losses(cast(DetectionHead, self._vit.head), features_BDYX, targets)
        for name, value in losses.items():
            self._parts.setdefault(name, 0.0)
            self._parts[name] += value.item()
        return torch.stack(list(losses.values())).sum()

    def _look(self) -> str:
        total = sum(self._parts.values())
        said = " ".join(f"{name} {value / total:.2f}" for name, value in self._parts.items())
        self._parts.clear()
        return said


def _check(config: VitdetConfig) -> None:
    check_settings(config)
    if config.weights is not None and config.backbone.weights is not None:
        raise UserError("weights and backbone.weights: training starts from one of the two")
    if len(config.scales) != 2 or config.scales[0] > config.scales[1]:
        raise UserError(f"scales must be two sizes, the smaller one first, got {config.scales}")
    if not config.test_splits:
        raise UserError("test_splits must name a split")


def _main(argv: Sequence[str]) -> None:
    train(load_config(VitdetConfig, argv, f"python -m {COMMAND}"))


def main() -> None:
    """Console entry point."""
    cli.run(COMMAND, _main)


if __name__ == "__main__":
    main()
