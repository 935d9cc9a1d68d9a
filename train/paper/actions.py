"""The paper's tables of action recognition: accuracy and cost of ViViT over r, with original and tuned weights.

    python -m train.paper.actions configs/epic.yaml data_options.root=FOLDER

A row is one set of weights, dense or with r tokens updated by each gate: top-1 and top-5 over the videos of the split,
and 10^12 multiply-accumulates of all views of a video, the flush of each included, by the paper's accounting
(`envs.vivit.paper_column`). Features are kept by `train.tuning.feature_cache`, a file for each video: the same command
goes on where it was interrupted, and weights that share their spatial part share its features.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import eventful
import policies
from envs.vivit import ViewPlan, ViViT
from envs.vivit.paper_column import architectures, top_r_macs, view_macs
from envs.vivit.videos import LabelledVideo, VideoSet, load_video_set, plan_of, videos_for
from envs.vivit.weights import load_vivit
from eventful import cli
from eventful.console.output import say
from eventful.devices import device_named, dtype_named
from eventful.disk.replaced import replace_text
from eventful.errors import UserError
from train.config import load_config
from train.evaluation.bootstrap import Estimate, means, resample_clips
from train.evaluation.tables import INTERVALS, markdown
from train.files.folder_lock import only_run_in
from train.paper.actions_config import DENSE, ActionsConfig, check, wanted
from train.tuning.accuracy import ranks
from train.tuning.feature_cache import FeatureCache

COMMAND = "train.paper.actions"


@dataclass(frozen=True)
class ActionsRow:
    """A row of the table.

    Attributes:
        weights: Name of the weights.
        r: Tokens that each gate updates; None for the dense model.
        videos: Number of videos.
        top1: Share of them whose class is the most probable one.
        top5: Share of them whose class is among the five most probable.
        tera: 10^12 MACs of a video: of all its views, flushes, temporal part and classifier included.
    """

    weights: str
    r: int | None
    videos: int
    top1: Estimate
    top5: Estimate
    tera: float


def actions_table(config: ActionsConfig, data: VideoSet | None = None) -> list[ActionsRow]:
    """Computes a table, or goes on with it, and writes `OUT/table.md` and `OUT/table.csv` after each row.

    Args:
        config: Settings.
        data: The data; by default the set that the config names.

    Raises:
        UserError: For settings that do not fit together, the weights, the data or the machine.
        VideoError: If a video cannot be read.
    """
    check(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    data = load_video_set(config.data, **config.data_options) if data is None else data
    for name in (name for name in config.rows if config.weights[name] is None):
        say(f"weights.{name} is not given: its rows are left out")
    rows: list[ActionsRow] = []
    with only_run_in(Path(config.out)):
        for name, r in wanted(config):
            rows.append(_row(config, data, name, r))
            _write(Path(config.out), rows)
    print((Path(config.out) / "table.md").read_text(), flush=True)
    return rows


def _row(config: ActionsConfig, data: VideoSet, name: str, r: int | None) -> ActionsRow:
    path = str(config.weights[name])
    vivit, device = load_vivit(path), device_named(config.device)
    videos = videos_for(vivit, path, data, config.data, config.split, config.max_videos)
    plan = plan_of(data, vivit.size, vivit.frames, config.stride, config.starts, config.crops)
    spatial = _spatial(config, vivit, name, r).to(device)
    cache = FeatureCache(Path(config.cache), spatial, plan)
    cache.fill(videos, f"{config.split}, {name}, {DENSE if r is None else f'r={r}'}")
    examples = [partial(_tokens, cache, video) for video in videos]
    labels = [video.label for video in videos]
    rank_B, _ = ranks(vivit.temporal.to(device), examples, labels, config.batch)
    draws = resample_clips(len(videos), config.samples, config.seed)
    top1, top5 = (Estimate.of(means((rank_B < most).tolist(), [1.0] * len(videos), draws)) for most in (1, 5))
    row = ActionsRow(name, r, len(videos), top1, top5, _tera(vivit, plan, r))
    say("  ".join(_cells(row)))
    return row


def _tokens(cache: FeatureCache, video: LabelledVideo) -> Tensor:
    return cache.read(video).tokens_VSD


def _spatial(config: ActionsConfig, vivit: ViViT, name: str, r: int | None) -> nn.Module:
    """The spatial part, dense or as published."""
    vit = vivit.spatial.to(dtype_named(config.dtype)).requires_grad_(False)
    if r is None:
        return vit
    tokens = architectures(vivit)[0].tokens
    if r > tokens:
        raise UserError(f"rows.{name}: r={r}, but {config.weights[name]} has {tokens} tokens a step")
    stored, product = (
        None if value is None else dtype_named(value, option)
        for option, value in (("buffer_dtype", config.buffer_dtype), ("product_dtype", config.product_dtype))
    )
    with cli.user_input(f"rows.{name}"):
        return eventful.wrap(
            vit,
            policies.TopR(r),
            attention="paper",
            prefix="ordinary",
            buffer_dtype=stored,
            product_dtype=product,
        )


def _tera(vivit: ViViT, plan: ViewPlan, r: int | None) -> float:
    counts = view_macs(vivit) if r is None else top_r_macs(vivit, r)
    return plan.views * sum(counts.values()) / 1e12


def _percent(estimate: Estimate) -> str:
    value, low, high = (f"{100 * share:.2f}" for share in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def _cells(row: ActionsRow) -> list[str]:
    r = DENSE if row.r is None else str(row.r)
    return [row.weights, r, _percent(row.top1), _percent(row.top5), f"{row.tera:.4g}"]


def _write(out: Path, rows: Sequence[ActionsRow]) -> None:
    table = markdown(["weights", "r", "top-1, %", "top-5, %", "T MACs a clip"], [_cells(row) for row in rows])
    note = INTERVALS.replace("all policies", "all rows")
    text = f"{table}\n\n{rows[0].videos} clips. T MACs: 10^12, of all views of a clip, flush included. {note}\n"
    replace_text(out / "table.md", text)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["weights", "r", "videos", "top1", "top1_low", "top1_high", "top5", "top5_low", "top5_high", "tera"]
    )
    for row in rows:
        figures = [getattr(share, end) for share in (row.top1, row.top5) for end in ("value", "low", "high")]
        writer.writerow([row.weights, DENSE if row.r is None else row.r, row.videos, *figures, row.tera])
    replace_text(out / "table.csv", file.getvalue())


def _main(argv: Sequence[str]) -> None:
    actions_table(load_config(ActionsConfig, argv, f"python -m {COMMAND}"))


def main() -> None:
    """Console entry point."""
    cli.run(COMMAND, _main)


if __name__ == "__main__":
    main()
