"""Settings of `python -m train.paper.actions`, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from eventful.checks.ranges import SEED, THREADS, setting
from eventful.errors import UserError
from train.config import check_settings

DENSE = "dense"


@dataclass
class ActionsConfig:
    """A table of action recognition: rows over r, for the original and the tuned weights.

    Attributes:
        data: Set of videos: `epic`, `kinetics`, `folder`, `listed`, or `MODULE:CLASS` (see envs/vivit/videos.py).
        data_options: Options of the set, as `data_options.root=FOLDER`.
        split: Split to evaluate on.
        max_videos: Number of its videos, the first ones; all if not given.
        weights: Weights files by a name of their own, as `weights.NAME=FILE`; rows of `null` are left out.
        rows: Rows by the name of their weights: `dense`, or numbers r of tokens that each gate updates.
        stride: Frames of a video from one frame of a view to the next; the set's own if not given.
        starts: Number of times in a video at which views start.
        crops: Number of places at which views are cropped.
        buffer_dtype: Data type of the N x N buffers; that of the tokens if not given.
        product_dtype: Data type of attention weights, values and their sums, published: `float16`; `null` for float32.
        dtype: Data type of the spatial part.
        device: Device of both parts.
        threads: Number of threads; 0 for torch's choice.
        batch: Number of videos whose features are classified at the same time.
        samples: Number of resamples of the bootstrap.
        seed: Seed of the bootstrap.
        out: Folder for the table.
        cache: Folder for features, from which an interrupted run goes on; that of `eventful-tune` may be used.

    Examples:
        python -m train.paper.actions configs/epic.yaml data_options.root=EPIC-KITCHENS
    """

    data: str = "???"
    data_options: dict[str, Any] = field(default_factory=dict)
    split: str = "validation"
    max_videos: int | None = setting(None, "[1, 1e8]")
    weights: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, Any] = field(default_factory=dict)
    stride: int | None = setting(None, "[1, 1e5]")
    starts: int = setting(4, "[1, 1000]")
    crops: int = setting(3, "[1, 1000]")
    buffer_dtype: str | None = None
    product_dtype: str | None = "float16"
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = setting(0, THREADS)
    batch: int = setting(64, "[1, 1e5]")
    samples: int = setting(1000, "[1, 1e5]")
    seed: int = setting(0, SEED)
    out: str = "runs/actions"
    cache: str = "runs/features"


def check(config: ActionsConfig) -> None:
    """Refuses what can be judged without the models and the data.

    Raises:
        UserError: Naming the setting.
    """
    check_settings(config)
    for name, rows in config.rows.items():
        if name not in config.weights:
            known = ", ".join(config.weights) or "none"
            raise UserError(f"rows.{name}: there are no weights of that name (there are: {known}; weights.{name}=FILE)")
        if not isinstance(rows, list) or not all(row == DENSE or (type(row) is int and row >= 1) for row in rows):
            raise UserError(f"rows.{name} must be a list of {DENSE} and numbers of tokens, got {rows}")
    if not wanted(config):
        raise UserError("there is no row to compute; give weights.NAME=FILE and rows.NAME=[dense,100]")


def wanted(config: ActionsConfig) -> list[tuple[str, int | None]]:
    """The rows whose weights are given: name of the weights, and r or None for the dense model."""
    return [
        (name, None if row == DENSE else row)
        for name, rows in config.rows.items()
        if config.weights[name] is not None
        for row in rows
    ]
