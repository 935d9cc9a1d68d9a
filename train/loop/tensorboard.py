"""What training shows in TensorBoard: losses, budgets, rates, mask heat maps, ages, the frontier as it moves.

Shape suffixes: T frames, G gates, N tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from policies import Layout
from train.estimators.protocol import WindowResult
from train.loop.validation import ValidationPoints


class TensorBoardWriter:
    """Writes one run's scalars, histograms and pictures.

    Args:
        folder: Folder of the event files.
        step: Step at which a resumed run goes on; later entries of the interrupted run are hidden.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=step or None)

    def window(self, step: int, result: WindowResult, layout: Layout, extra: Mapping[str, float]) -> None:
        """Logs one training window."""
        for name, value in {**result.stats, **extra}.items():
            self._writer.add_scalar(f"train/{name}", value, step)
        if len(result.rates_TG):
            for gate, rate in enumerate(result.rates_TG.mean(0).tolist()):
                self._writer.add_scalar(f"rates/gate_{gate:02d}", rate, step)
            self._writer.add_histogram("train/age", result.ages, step)

    def masks(self, step: int, result: WindowResult, layout: Layout) -> None:
        """The window's masks side by side: one picture per frame, white where tokens were updated."""
        patches_TN = result.masks_TN[:, layout.prefix :]
        if len(patches_TN):
            self._writer.add_image("masks/frames", _strip(patches_TN, layout.grid), step, dataformats="HW")
            heat = patches_TN.float().mean(0).view(layout.grid)
            self._writer.add_image("masks/rate", _enlarge(heat, 8), step, dataformats="HW")

    def frontier(self, step: int, points: ValidationPoints) -> None:
        """Validation: what each policy earns at each budget, how far it is from dense, what it really spends."""
        for name, some in points.items():
            for point in some:
                for figure in ("reward", "distance", "share"):
                    tag = f"frontier_{figure}/{name}_at_{point.budget:g}"
                    self._writer.add_scalar(tag, getattr(point, figure), step)

    def close(self) -> None:
        """Flushes everything to disk."""
        self._writer.close()


def _strip(masks_TN: Tensor, grid: tuple[int, int], scale: int = 4, gap: int = 4) -> Tensor:
    """Frames from left to right with grey gaps between them."""
    frames = [_enlarge(mask.float().view(grid), scale) for mask in masks_TN]
    between = torch.full((frames[0].shape[0], gap), 0.5)
    pieces = [piece for frame in frames for piece in (frame, between)][:-1]
    return torch.cat(pieces, dim=1)


def _enlarge(image: Tensor, scale: int) -> Tensor:
    return image.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
