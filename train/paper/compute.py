"""The compute columns of all published tables, counted from the sizes of the models, beside the published figures.

    python -m train.paper.compute

Neither weights nor data are needed, but for what is left open by a row: how many tokens a threshold selects, and how
many pooled keys the selected tokens share. There the command says how many it must have been, on average over gates and
frames, for the published figure. (That a model at full size counts alike when it runs: `eventful-benchmark
accounting=[1024/512]`.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from envs.vivit import ViViT
from envs.vivit.paper_column import top_r_macs, view_macs
from eventful import cli
from eventful.console.options import Parser
from eventful.errors import UserError
from eventful.macs.paper_column import Architecture, Selected, flush_macs, steady_macs, vitdet_b
from train.evaluation.tables import markdown
from train.paper.published import CLIP_MODELS, CLIP_VIEWS, PUBLISHED, PUBLISHED_CLIPS, Figures
from train.paper.rows import Row, parse_row

COMMAND = "python -m train.paper.compute"
EXAMPLES = (COMMAND, f"{COMMAND} --frames 250")

HEADER = ("row", "published", "counted", "difference", "updated, if that is not given")

_POOL = 2


def detection_lines(size: int, frames: int) -> Iterator[list[str]]:
    """Lines of a table of ViTDet-B, in 10^9 MACs of a frame.

    Args:
        size: Side of the canvas in pixels.
        frames: Length of a video, over which the flush is spread.
    """
    for name, figures in PUBLISHED[size].items():
        row = parse_row(name)
        sizes = vitdet_b(size, _POOL if row.variant.pooled else 1)
        rule, _, value = row.policy.partition(":")
        if row.variant.attention is None:
            yield _line(name, figures, _total(flush_macs(sizes)) / 1e9)
        elif rule == "threshold":
            tokens = _where(partial(_average, row, sizes, frames), figures[1])
            yield _open(name, figures, tokens, sizes.tokens, "tokens")
        elif row.variant.pooled:
            cells = _where(partial(_average, row, sizes, frames, float(value)), figures[1])
            yield _open(name, figures, cells, sizes.tokens / _POOL**2, "pooled keys")
        else:
            yield _line(name, figures, _average(row, sizes, frames, float(value)))


def clip_lines(data: str) -> Iterator[list[str]]:
    """Lines of a table of ViViT-B, in 10^12 MACs of a clip.

    Args:
        data: `epic` or `kinetics`.
    """
    with torch.device("meta"):
        vivit = ViViT(*CLIP_MODELS[data])
    for name, figures in PUBLISHED_CLIPS[data].items():
        r = name.partition(":")[2]
        counts = view_macs(vivit) if r == "dense" else top_r_macs(vivit, int(r))
        yield _line(name, figures, CLIP_VIEWS * _total(counts) / 1e12)


def _average(row: Row, sizes: Architecture, frames: int, tokens: float, cells: float | None = None) -> float:
    """10^9 MACs of a frame, if every gate selects so many tokens after the flush, in so many pooled keys."""
    block = Selected(tokens, tokens, tokens, cells)
    steady = _total(steady_macs(sizes, [block] * sizes.depth, row.variant.attention == "recompute"))
    return (steady + (_total(flush_macs(sizes)) - steady) / frames) / 1e9


def _where(cost: Callable[[float], float], figure: float) -> float:
    """Where a cost that grows linearly has a certain figure."""
    none = cost(0.0)
    return (figure - none) / (cost(1.0) - none)


def _line(name: str, figures: Figures, counted: float) -> list[str]:
    published = figures[1]
    return [name, f"{published:g}", f"{counted:.4g}", f"{100 * (counted / published - 1):+.2f} %", ""]


def _open(name: str, figures: Figures, updated: float, of: float, what: str) -> list[str]:
    return [name, f"{figures[1]:g}", "", "", f"{updated:.0f} of {of:.0f} {what} ({100 * updated / of:.1f} %)"]


def _total(counts: Counter[str]) -> float:
    return float(sum(counts.values()))


def _main(argv: Sequence[str]) -> None:
    parser = Parser(COMMAND, "Count what the published tables say of compute.", EXAMPLES)
    parser.add_argument("--frames", type=int, default=260, help="length of a video of ImageNet VID, flush included")
    frames = parser.parse_args(argv).frames
    if frames < 1:
        raise UserError(f"--frames must be at least 1, got {frames}")
    for size in PUBLISHED:
        lines = list(detection_lines(size, frames))
        print(f"ViTDet-B, {size} pixels, 10^9 MACs of a frame\n\n{markdown(HEADER, lines)}\n")
    for data in PUBLISHED_CLIPS:
        print(f"ViViT-B, {data}, 10^12 MACs of a clip\n\n{markdown(HEADER, list(clip_lines(data)))}\n")


def main(argv: Sequence[str] | None = None) -> None:
    """The command.

    Raises:
        SystemExit: Always; code 2 for arguments that cannot be.
    """
    cli.run(COMMAND, _main, argv)


if __name__ == "__main__":
    main()
