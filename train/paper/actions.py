"""The paper's tables of action recognition: accuracy and cost of ViViT over r, with original and tuned weights.

    python -m train.paper.actions configs/epic.yaml data_options.root=FOLDER
    torchrun --nproc-per-node 4 -m train.paper.actions configs/epic.yaml data_options.root=FOLDER device=cuda

A row is one set of weights, dense or with r tokens updated by each gate: top-1 and top-5 over the videos of the split,
and 10^12 multiply-accumulates of all views of a video, the flush of each included, by the paper's accounting
(`envs.vivit.paper_column`). Features are kept by `train.tuning.feature_cache`, a file for each video: the same command
goes on where it was interrupted, and weights that share their spatial part share its features.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
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
from train.distributed import own_device, own_share
from train.evaluation.bootstrap import Estimate, means, resample_clips
from train.evaluation.tables import INTERVALS, markdown
from train.paper.actions_config import DENSE, ActionsConfig, check, wanted
from train.paper.published import CLIP_MODELS, CLIP_VIEWS, PUBLISHED_CLIPS, Figures
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
        published: Published top-1 in percent, and 10^12 MACs; None if there are none.
    """

    weights: str
    r: int | None
    videos: int
    top1: Estimate
    top5: Estimate
    tera: float
    published: Figures | None = None


def actions_table(
    config: ActionsConfig, data: VideoSet | None = None, rank: int = 0, processes: int = 1
) -> list[ActionsRow]:
    """Computes a table, or goes on with it, and writes `OUT/table.md` and `OUT/table.csv`.

    A process alone writes them after every row. Of several, each takes every n-th video, and whoever finds all features
    there writes the table; the others return nothing.

    Args:
        config: Settings.
        data: The data; by default the set that the config names.
        rank: Which of several processes this is.
        processes: Number of processes.

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
    keys, rows = wanted(config), dict[tuple[str, int | None], ActionsRow]()
    for key in keys:
        line = _Line(config, data, *key)
        line.fill(rank, processes)
        if line.is_complete():
            rows[key] = line.row()
        if processes == 1:
            _write(Path(config.out), list(rows.values()))
    for key in (key for key in keys if key not in rows):
        line = _Line(config, data, *key)
        if not line.is_complete():
            say("other processes are still at their videos: the last one writes the table")
            return []
        rows[key] = line.row()
    in_order = [rows[key] for key in keys]
    print(_write(Path(config.out), in_order).read_text(), flush=True)
    return in_order


class _Line:
    """What a row is computed from."""

    def __init__(self, config: ActionsConfig, data: VideoSet, name: str, r: int | None) -> None:
        path = str(config.weights[name])
        self._config, self._name, self._r = config, name, r
        self._vivit, self._device = load_vivit(path), device_named(own_device(config.device))
        self._videos = videos_for(self._vivit, path, data, config.data, config.split, config.max_videos)
        self._plan = plan_of(data, self._vivit.size, self._vivit.frames, config.stride, config.starts, config.crops)
        spatial = _spatial(config, self._vivit, name, r).to(self._device)
        self._cache = FeatureCache(Path(config.cache), spatial, self._plan)

    def fill(self, rank: int, processes: int) -> None:
        """Computes the features that fall to one of several processes."""
        what = DENSE if self._r is None else f"r={self._r}"
        self._cache.fill(self._videos[rank::processes], f"{self._config.split}, {self._name}, {what}")

    def is_complete(self) -> bool:
        """Whether the features of all videos are there, whoever computed them."""
        return not self._cache.missing(self._videos)

    def row(self) -> ActionsRow:
        """The row, from the features of all videos."""
        config, vivit, r = self._config, self._vivit, self._r
        examples = [partial(_tokens, self._cache, video) for video in self._videos]
        labels = [video.label for video in self._videos]
        rank_B, _ = ranks(vivit.temporal.to(self._device), examples, labels, config.batch)
        draws = resample_clips(len(labels), config.samples, config.seed)
        top1, top5 = (Estimate.of(means((rank_B < most).tolist(), [1.0] * len(labels), draws)) for most in (1, 5))
        published = _published(config.data, vivit, self._plan).get(f"{self._name}:{_shown(r)}")
        row = ActionsRow(self._name, r, len(labels), top1, top5, _tera(vivit, self._plan, r), published)
        say("  ".join(_cells(row)))
        return row


def _shown(r: int | None) -> str:
    return DENSE if r is None else str(r)


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


def _published(data: str, vivit: ViViT, plan: ViewPlan) -> Mapping[str, Figures]:
    """The published figures of a set of videos; none for other models and other views than the published ones."""
    if data not in PUBLISHED_CLIPS or plan.views != CLIP_VIEWS:
        return {}
    with torch.device("meta"):
        theirs = ViViT(*CLIP_MODELS[data])
    return PUBLISHED_CLIPS[data] if architectures(vivit) == architectures(theirs) else {}


def _percent(estimate: Estimate) -> str:
    value, low, high = (f"{100 * share:.2f}" for share in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def _cells(row: ActionsRow) -> list[str]:
    theirs = [f"{figure:g}" for figure in row.published or ()] or ["", ""]
    return [row.weights, _shown(row.r), _percent(row.top1), _percent(row.top5), f"{row.tera:.4g}", *theirs]


def _write(out: Path, rows: Sequence[ActionsRow]) -> Path:
    header = ["weights", "r", "top-1, %", "top-5, %", "T MACs a clip", "published top-1", "published T"]
    columns = len(header) if any(row.published for row in rows) else len(header) - 2
    table = markdown(header[:columns], [_cells(row)[:columns] for row in rows])
    note = INTERVALS.replace("all policies", "all rows")
    text = f"{table}\n\n{rows[0].videos} clips. T MACs: 10^12, of all views of a clip, flush included. {note}\n"
    for name, content in {"table.csv": _as_csv(rows), "table.md": text}.items():
        replace_text(out / name, content)
    return out / "table.md"


def _as_csv(rows: Sequence[ActionsRow]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["weights", "r", "videos", "top1", "top1_low", "top1_high", "top5", "top5_low", "top5_high", "tera"]
    )
    for row in rows:
        figures = [getattr(share, end) for share in (row.top1, row.top5) for end in ("value", "low", "high")]
        writer.writerow([row.weights, _shown(row.r), row.videos, *figures, row.tera])
    return text.getvalue()


def _main(argv: Sequence[str]) -> None:
    config = load_config(ActionsConfig, argv, f"python -m {COMMAND}")
    actions_table(config, None, *own_share())


def main() -> None:
    """Console entry point."""
    cli.run(COMMAND, _main)


if __name__ == "__main__":
    main()
