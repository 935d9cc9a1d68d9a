"""`eventful-tune`: fits the temporal part of a ViViT to a spatial part that updates only what a policy selects.

    eventful-tune configs/tune.yaml weights=vivit.safetensors data_options.table=videos.csv heuristic=top-r:48

The spatial part runs once over every video, and what it gives is kept (`train.tuning.feature_cache`). Then the temporal
part and the classifier are trained on it (`train.tuning.tuner`), and `OUT/vivit.safetensors` is the whole model again;
`OUT/history.jsonl` has a line for each epoch. `epochs=0` evaluates a model as it is, at another r, say.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import eventful
import policies
from envs.vivit import ViViT
from envs.vivit.videos import LabelledVideo, VideoSet, load_video_set, plan_of, videos_for
from envs.vivit.weights import load_vivit, save_vivit
from eventful import cli
from eventful.console.output import say
from eventful.devices import device_named, dtype_named
from eventful.disk.replaced import replace_text
from eventful.errors import UserError
from eventful.infer.arguments import heuristic
from eventful.user_code import policy_class
from policies import Policy, PolicyMismatch, TrainablePolicy
from policies.content_hash import content_hash
from train.config import load_config, part
from train.files.folder_lock import only_run_in
from train.tuning.accuracy import Examples, accuracy
from train.tuning.feature_cache import FeatureCache
from train.tuning.tune_config import TuneConfig, check
from train.tuning.tuner import Row, Tuner, TuningOptions

COMMAND = "eventful-tune"


def tune(config: TuneConfig, videos: VideoSet | None = None) -> Path:
    """Tunes a model; returns the file of the tuned one, or with `epochs=0` of the one that was evaluated.

    Args:
        config: Settings.
        videos: The data; by default the set that the config names.

    Raises:
        UserError: For settings that do not fit together, the model, the data or the machine.
        VideoError: If a video cannot be read.
    """
    check(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    videos = load_video_set(config.data, **config.data_options) if videos is None else videos
    with only_run_in(Path(config.out)):
        return _Run(config, load_vivit(config.weights), videos).run()


class _Run:
    """The stages of one run."""

    def __init__(self, config: TuneConfig, vivit: ViViT, data: VideoSet) -> None:
        self._config, self._vivit, self._data = config, vivit, data
        self._device = device_named(config.device)
        self._out = Path(config.out)
        plan = plan_of(data, vivit.size, vivit.frames, config.stride, config.starts, config.crops)
        self._cache = FeatureCache(Path(config.cache), self._spatial(), plan)
        vivit.temporal.to(self._device)

    def run(self) -> Path:
        """Features, training, and the model as it is then."""
        config = self._config
        test = self._split(config.test_split) if config.test_split is not None else []
        if test:
            share = torch.cat([self._cache.read(video).share_V for video in test]).mean()
            say(f"share of the spatial part's dense MACs: {share:.4f} (features: {self._cache.folder})")
        look = partial(self._look, test)
        if not config.epochs:
            print(_shown(look()), flush=True)
            return Path(config.weights)
        tuner = self._tuner(self._split(config.train_split))
        if tuner.resume():
            say(f"resuming after {tuner.step} steps, {tuner.epoch} of {config.epochs} epochs")
        tuner.fit(look, lambda row: say(_shown(row)))
        self._write(tuner)
        return self._out / "vivit.safetensors"

    def _write(self, tuner: Tuner) -> None:
        """The whole model, and the course of its training."""
        lines = "".join(json.dumps(row) + "\n" for row in tuner.history)
        replace_text(self._out / "history.jsonl", lines)
        # The spatial part that has run may be in half precision.
        whole = load_vivit(self._config.weights)
        whole.temporal.load_state_dict(self._vivit.temporal.state_dict())
        save_vivit(whole, self._out / "vivit.safetensors")
        print(f"tuned model written to {self._out / 'vivit.safetensors'}", flush=True)

    def _spatial(self) -> nn.Module:
        """The spatial part, as it is to run."""
        config = self._config
        vit = self._vivit.spatial.to(self._device, dtype_named(config.dtype)).requires_grad_(False)
        policy = _policy(config)
        if policy is None:
            return vit
        if isinstance(policy, nn.Module):
            policy.to(self._device)
        stored, product = (
            None if value is None else dtype_named(value, name)
            for name, value in (("buffer_dtype", config.buffer_dtype), ("product_dtype", config.product_dtype))
        )
        with cli.user_input(f"heuristic={config.heuristic}" if config.policy is None else f"policy={config.policy}"):
            return eventful.wrap(
                vit,
                policy,
                buffer_dtype=stored,
                product_dtype=product,
                **_options(policy, config),
            )

    def _split(self, split: str) -> Sequence[LabelledVideo]:
        """The videos of a split, their features computed."""
        config = self._config
        videos = videos_for(self._vivit, config.weights, self._data, config.data, split, config.max_videos)
        try:
            self._cache.fill(videos, split)
        except PolicyMismatch as error:
            raise UserError(f"policy={self._config.policy}: {error}") from error
        return videos

    def _examples(self, videos: Sequence[LabelledVideo]) -> Examples:
        return [partial(self._tokens, video) for video in videos]

    def _tokens(self, video: LabelledVideo) -> Tensor:
        return self._cache.read(video).tokens_VSD

    def _look(self, videos: Sequence[LabelledVideo]) -> Row:
        """How well the videos are classified now; nothing if there are none."""
        if not videos:
            return {}
        labels = [video.label for video in videos]
        found = accuracy(self._vivit.temporal, self._examples(videos), labels, self._config.batch)
        return dataclasses.asdict(found)

    def _tuner(self, videos: Sequence[LabelledVideo]) -> Tuner:
        options, temporal = part(self._config, TuningOptions), self._vivit.temporal
        # Everything else may change in an interruption: how often to save, for how long, and where files are.
        recipe = {k: v for k, v in dataclasses.asdict(options).items() if k not in ("epochs", "save_every")}
        run = recipe | {
            "features": self._cache.folder.name,
            "weights": content_hash(temporal.state_dict()),
            "videos": content_hash([[video.key, video.label] for video in videos]),
        }
        labels = [video.label for video in videos]
        return Tuner(temporal, self._examples(videos), labels, options, self._out, run)


def _shown(row: Row) -> str:
    return "  ".join(f"{name} {value:.6g}" for name, value in row.items())


def _policy(config: TuneConfig) -> Policy | None:
    """The policy that is asked for, None for the dense model."""
    if config.heuristic is not None:
        try:
            rule = heuristic(config.heuristic)
        except argparse.ArgumentTypeError as error:
            raise UserError(f"heuristic={config.heuristic}: {error}") from error
        if isinstance(rule, policies.Random):
            raise UserError(
                f"heuristic={config.heuristic}: what a random rule selects depends on the videos before, so features "
                "that are kept would not be those of another run"
            )
        return rule
    if config.policy is None:
        return None
    with cli.user_input(f"policy={config.policy}"):
        policy = policies.load(config.policy, policy_class(config.policy_class, "policy_class"))
        if config.budget is not None:
            policy.budget = config.budget
    return policy


def _options(policy: Policy, config: TuneConfig) -> dict[str, Any]:
    """How the model is run: as the policy was trained, where nothing else is given."""
    trained = policy.provenance.options if isinstance(policy, TrainablePolicy) else {}
    given = {name: value for name in ("attention", "prefix") if (value := getattr(config, name)) is not None}
    return {**trained, **given, "granularity": getattr(policy, "granularity", "gate")}


def _main(argv: Sequence[str]) -> None:
    tune(load_config(TuneConfig, argv, COMMAND))


def main() -> None:
    """Console entry point."""
    cli.run(COMMAND, _main)


if __name__ == "__main__":
    main()
