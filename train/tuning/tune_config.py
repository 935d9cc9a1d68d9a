"""Settings of `eventful-tune`, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from eventful.checks.ranges import THREADS, setting
from eventful.errors import UserError
from eventful.options import AttentionMode, Prefix
from eventful.user_code import LEARNED
from train.config import check_settings
from train.tuning.tuner import TuningOptions


@dataclass
class TuneConfig(TuningOptions):
    """Tuning of a ViViT's temporal part for a policy.

    Attributes:
        weights: The ViViT, as `python -m envs.convert` makes it of published weights.
        data: Set of videos: `listed`, `folder`, `epic`, `kinetics`, or a class of your own, `MODULE:CLASS` (see
            envs/vivit/videos.py).
        data_options: Options of the set, as `data_options.NAME=VALUE`, such as `data_options.table=videos.csv` or
            `data_options.root=FOLDER`.
        stride: Frames of a video from one frame of a view to the next; the set's own if not given: 1 for EPIC-Kitchens
            (at 30 frames per second) and 2 for Kinetics (at 25), as published, 2 for others.
        starts: Number of times in a video at which views start.
        crops: Number of places at which views are cropped.
        train_split: Split to tune on.
        test_split: Split to evaluate on, before and after each epoch; null for none.
        max_videos: Number of videos of each split, the first ones; all if not given.
        out: Folder for the tuned model, the course of its training, and the state to resume from.
        cache: Folder for features, which are found again by what they are.
        heuristic: Rule that selects tokens, as `eventful-infer` takes it: `top-r:100`, `threshold:1`, ...
        policy: Checkpoint of a policy instead: a folder, or the name of one on the hub.
        policy_class: Class of the policy, if it is your own.
        budget: Share of the dense MACs that the policy is to spend; its own if not given.
        attention: Attention update: `exact`, `paper` (as published) or `recompute`; the policy's own if not given, else
            `exact`.
        prefix: Whether the class token is updated wherever another token is (`pinned`), or chosen like any other
            (`ordinary`, as published); the policy's own if not given, else `pinned`.
        buffer_dtype: Data type of the N x N buffers of attention=paper; that of the tokens if not given.
        product_dtype: Data type of attention weights, values and their sums of attention=paper, published: `float16`.
        dtype: Data type of the spatial part.
        device: Device of both parts.
        threads: Number of threads; 0 for torch's choice.

    Examples:
        eventful-tune configs/tune.yaml weights=vivit.safetensors data_options.table=videos.csv
        eventful-tune weights=vivit.safetensors data=folder data_options.root=clips heuristic=top-r:24 epochs=0
    """

    weights: str = "???"
    data: str = "listed"
    data_options: dict[str, Any] = field(default_factory=dict)
    stride: int | None = setting(None, "[1, 1e5]")
    starts: int = setting(4, "[1, 1000]")
    crops: int = setting(3, "[1, 1000]")
    train_split: str = "train"
    test_split: str | None = "validation"
    max_videos: int | None = setting(None, "[1, 1e8]")
    out: str = "runs/tune"
    cache: str = "runs/features"
    heuristic: str | None = None
    policy: str | None = None
    policy_class: str = LEARNED
    budget: float | None = setting(None, "(0, 1]")
    attention: AttentionMode | None = None
    prefix: Prefix | None = None
    buffer_dtype: str | None = None
    product_dtype: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = setting(0, THREADS)


def check(config: TuneConfig) -> None:
    """Refuses what can be judged without the model and the data.

    Raises:
        UserError: Naming the setting.
    """
    check_settings(config)
    if config.heuristic is not None and config.policy is not None:
        raise UserError(f"heuristic={config.heuristic} and policy={config.policy}: one of them selects the tokens")
    eventful = config.heuristic is not None or config.policy is not None
    for name, reader, read in (
        ("budget", "policy=FOLDER", config.policy is not None),
        ("policy_class", "policy=FOLDER", config.policy is not None),
        ("attention", "heuristic or policy", eventful),
        ("prefix", "heuristic or policy", eventful),
        ("buffer_dtype", "attention=paper", eventful and config.attention == "paper"),
        ("product_dtype", "attention=paper", eventful and config.attention == "paper"),
    ):
        if not read and getattr(config, name) != getattr(TuneConfig, name):
            raise UserError(f"{name}={getattr(config, name)} is read with {reader} only")
    if not config.epochs and config.test_split is None:
        raise UserError("epochs=0 evaluates alone, and needs a test_split")
