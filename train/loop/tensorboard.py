"""The training screen, in TensorBoard: losses, compute, fidelity, the frontier as it moves, masks, settings, results.

    tensorboard --logdir runs

Shape suffixes: T frames, G gates, N tokens; H height and W width of a picture.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from eventful.checks.extras import is_installed
from eventful.disk.full import written
from eventful.video.frames import Frame
from policies import Layout
from policies.protocol import BLOCK_GATES
from train.estimators.protocol import WindowResult
from train.loop.frontier_figure import frontier_figure
from train.loop.validation import ValidationPoints

Method = TypeVar("Method", bound=Callable[..., None])

NAMES = {
    "loss": "train/loss",
    "reward": "train/reward",
    "entropy": "train/entropy",
    "grad_norm": "train/gradient_norm",
    "learning_rate": "train/learning_rate",
    "share_over_budget": "compute/share_over_budget",
    "price": "compute/price_of_compute",
    "distance": "fidelity/token_distance",
    "distance_worst": "fidelity/token_distance_worst_20",
    "output_distance": "fidelity/output_distance",
    "task_loss_above_dense": "fidelity/task_loss_above_dense",
    "frames_per_second": "speed/frames_per_second",
}
"""Tags of what estimators and the loop report; estimators of one's own have theirs under `train/`."""


def _to_disk(method: Method) -> Method:
    """A method of the writer whose complaint about a full disk is one line.

    Entries are written by a thread: what befell one of them is raised by a later one, or at the end.
    """

    @wraps(method)
    def writing(self: TensorBoardWriter, *args: Any) -> None:
        with written(self.folder):
            method(self, *args)

    return cast("Method", writing)


class TensorBoardWriter:
    """Writes one run's scalars, histograms, pictures, and its settings beside what it came to.

    Args:
        folder: Folder of the event files.
        step: Step at which a resumed run goes on; later entries of the interrupted run are hidden.
        settings: The run's settings by name, as JSON texts.
        budgets: Budgets of the validation.

    Attributes:
        folder: Folder of the event files.

    Raises:
        UserError: If the disk takes no more; so do all methods.
    """

    def __init__(self, folder: Path, step: int, settings: Mapping[str, str], budgets: Sequence[float]) -> None:
        self.folder = folder
        before, self._hook = set(threading.enumerate()), threading.excepthook
        with written(folder):
            self._writer = SummaryWriter(str(folder), purge_step=step or None)
        threads = set(threading.enumerate()) - before

        def hook(args: threading.ExceptHookArgs) -> None:
            # Theirs are raised by the methods.
            if args.thread not in threads:
                self._hook(args)

        threading.excepthook = hook
        self._begin(settings, budgets)

    @_to_disk
    def _begin(self, settings: Mapping[str, str], budgets: Sequence[float]) -> None:
        lines = {f"{figure} at {b:g}": _tags(figure, b) for b in budgets for figure in ("reward", "distance", "share")}
        self._writer.add_custom_scalars(
            {"validation: learned and rule": {title: ["Multiline", tags] for title, tags in lines.items()}}
        )
        metrics = [_gain(b) for b in budgets] + [
            _tags(figure, b)[0] for b in budgets for figure in ("reward", "distance")
        ]
        experiment, start, self._end = hparams(hyper_parameters(settings), dict.fromkeys(metrics, 0.0))
        for summary in (experiment, start):
            self._summary(summary)

    @_to_disk
    def window(self, step: int, result: WindowResult, layout: Layout, extra: Mapping[str, float]) -> None:
        """Logs one training window."""
        for name, value in {**result.stats, **extra}.items():
            self._writer.add_scalar(NAMES.get(name, f"train/{name}"), value, step)
        if len(result.rates_TG):
            for gate, rate in enumerate(result.rates_TG.mean(0).tolist()):
                self._writer.add_scalar(f"update_rate/{gate_name(gate, layout)}", rate, step)
            self._writer.add_histogram("update_rate/ages_of_tokens", result.ages, step)

    @_to_disk
    def masks(self, step: int, result: WindowResult, layout: Layout) -> None:
        """At what rate each place of the picture was updated in the window, white for always."""
        patches_TN = result.masks_TN[:, layout.prefix :]
        if len(patches_TN):
            heat = patches_TN.float().mean(0).view(layout.grid)
            self._writer.add_image("masks/rate_in_the_window", _enlarge(heat, 8), step, dataformats="HW")

    @_to_disk
    def validation(self, step: int, points: ValidationPoints) -> None:
        """What each policy earns at each budget, how far it is from dense, what it really spends."""
        for name, some in points.items():
            for point in some:
                for figure in ("reward", "distance", "share"):
                    tag = f"validation/{figure}_at_{point.budget:g}/{name}"
                    self._writer.add_scalar(tag, getattr(point, figure), step)
        for learned, rule in zip(points["learned"], points["heuristic"], strict=True):
            self._writer.add_scalar(_gain(learned.budget), learned.reward - rule.reward, step)

    @_to_disk
    def frontier(self, step: int, looks: Sequence[Mapping[str, Any]]) -> None:
        """The frontier of all looks so far (`train.loop.history`), the last one on top; needs matplotlib."""
        if is_installed("plot"):
            self._writer.add_figure("frontier", frontier_figure(looks), step)

    @_to_disk
    def overlays(self, step: int, pictures: Sequence[Frame]) -> None:
        """Frames of a validation clip with the updated tokens tinted, uint8 (H, W, 3) each, from left to right."""
        if pictures:
            self._writer.add_image("masks/validation_clip", _side_by_side(pictures), step, dataformats="HWC")

    @_to_disk
    def close(self) -> None:
        """Notes that the run is over, and flushes everything to disk."""
        try:
            self._summary(self._end)
            self._writer.close()
        finally:
            threading.excepthook = self._hook

    def _summary(self, summary: Any) -> None:
        self._writer._get_file_writer().add_summary(summary)


def gate_name(gate: int, layout: Layout) -> str:
    """Such as `block_02_qkv`; `frame` where there is one decision per frame."""
    if layout.granularity == "frame":
        return "frame"
    return f"block_{gate // len(BLOCK_GATES):02d}_{BLOCK_GATES[gate % len(BLOCK_GATES)]}"


def hyper_parameters(settings: Mapping[str, str]) -> dict[str, bool | float | str]:
    """Settings as TensorBoard takes them: JSON texts to numbers, truth values and texts, those of groups one by one."""
    found: dict[str, bool | float | str] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                add(f"{name}.{key}", item)
        else:
            found[name] = value if isinstance(value, bool | int | float | str) else json.dumps(value)

    for name, text in settings.items():
        add(name, json.loads(text))
    return found


def _tags(figure: str, budget: float) -> list[str]:
    return [f"validation/{figure}_at_{budget:g}/{name}" for name in ("learned", "heuristic")]


def _gain(budget: float) -> str:
    return f"validation/gain_over_the_rule_at_{budget:g}"


def _side_by_side(pictures: Sequence[Frame], gap: int = 4) -> Frame:
    white = np.full((pictures[0].shape[0], gap, 3), 255, np.uint8)
    return np.concatenate([piece for picture in pictures for piece in (picture, white)][:-1], axis=1)


def _enlarge(image: Tensor, scale: int) -> Tensor:
    return image.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
