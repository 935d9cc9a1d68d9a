"""One video through several policies side by side: `eventful-infer VIDEO --policy DIR --compare dense,top-r,learned`.

All see the same frames in turn, with one model and a state each; rules get the number of tokens that costs the budget.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import policies
from eventful.disk.replaced import replace_file
from eventful.errors import UserError
from eventful.model import EventfulModel
from eventful.tasks import model_input, nearest
from eventful.video.frames import Frame, FrameReader
from eventful.video.overlay import annotate
from eventful.video.runner import FrameResult, VideoRunner
from policies.protocol import Layout, Policy

LEARNED = "learned"

LATEST = 1000
"""Frames whose times are kept."""

RULES: Mapping[str, Callable[[Layout, float], Policy]] = {
    "dense": lambda layout, budget: policies.All(),
    "top-r": lambda layout, budget: policies.TopR(layout.count(budget)),
    "saliency": lambda layout, budget: policies.SaliencyTopR(layout.count(budget), 0.5, 0.02),
    "random": lambda layout, budget: policies.Random(layout.count(budget) / layout.tokens),
    "periodic": lambda layout, budget: policies.Periodic(max(round(1 / budget), 1)),
    "nothing": lambda layout, budget: policies.Nothing(),
}
"""What a policy can be compared with, made to cost a share of the dense MACs."""


@dataclass
class Course:
    """What one policy has done so far.

    Attributes:
        shares: Share of the dense MACs, by frame.
        seconds: Time of the model, of the last frames.
        distances: Distances to the dense model, of the frames where it was asked for.
        updates_RC: How often each cell of the token grid was updated, flushes left out.
        steady: Number of frames that were no flush.
        total: Sum of the shares.
    """

    shares: list[float] = field(default_factory=list)
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))
    distances: list[float] = field(default_factory=list)
    updates_RC: NDArray[np.float32] | None = None
    steady: int = 0
    total: float = 0.0

    @property
    def mean_share(self) -> float:
        """Mean share of the dense MACs; summed up as frames come, not anew at each of them."""
        return self.total / len(self.shares)

    def add(self, result: FrameResult) -> None:
        """Adds a frame."""
        self.shares.append(result.macs_ratio)
        self.total += result.macs_ratio
        self.seconds.append(result.seconds)
        if result.dense is not None:
            self.distances.append(result.dense.distance)
        if not result.flush:
            self.steady += 1
            self.updates_RC = result.rate_RC if self.updates_RC is None else self.updates_RC + result.rate_RC


class Comparison:
    """Several policies on the same frames.

    Args:
        runner: Runner of the policy in question.
        names: Names of the policies: `learned` for the runner's own, or rules of `RULES`.
        budget: Share of the dense MACs for all of them.

    Attributes:
        courses: What each has done so far, by name.
        motion: Mean change of the pixels from frame to frame, 0 to 255; 0 for the first one.

    Raises:
        UserError: If there is no such rule, a name comes twice, or the runner's own policy has no budget to set.
    """

    def __init__(self, runner: VideoRunner, names: Sequence[str], budget: float, dense_every: int = 0) -> None:
        known = (LEARNED, *RULES)
        for name in names:
            if name not in known:
                raise UserError(
                    f"--compare: there is no {name!r}{nearest(name, known)} (there are: {', '.join(known)})"
                )
        if len(set(names)) < len(names) or not names:
            raise UserError(f"--compare must name different policies, at least one, got {','.join(names)}")
        if LEARNED in names and runner.model.policy.budget is None:
            raise UserError(f"--compare: {runner.model.policy.name} has no budget, so it cannot be {LEARNED!r}")
        self._runner, self._names, self._budget, self._dense_every = runner, names, budget, dense_every
        self._runners: dict[str, VideoRunner] = {}
        self._last: Frame | None = None
        self.courses = {name: Course() for name in names}
        self.motion: list[float] = []

    def run(self, frames: FrameReader, max_frames: int | None = None) -> Iterator[dict[str, FrameResult]]:
        """Yields the results of each frame, by name."""
        cuts = frames.cuts
        for frame, time in islice(frames.timed(), max_frames):
            if not self._runners:
                self._runners = {name: self._made(name, frame) for name in self._names}
            if frames.cuts != cuts:
                for runner in self._runners.values():
                    runner.flush()
                cuts = frames.cuts
            results = {name: runner.step(frame, time) for name, runner in self._runners.items()}
            for name, result in results.items():
                self.courses[name].add(result)
            change = 0.0 if self._last is None else float(np.abs(frame.astype(np.int16) - self._last).mean())
            self.motion.append(change)
            self._last = frame
            yield results

    def _made(self, name: str, frame: Frame) -> VideoRunner:
        model, task = self._runner.model, self._runner.task
        if name == LEARNED:
            model.policy.budget = self._budget
            return VideoRunner(model, task, self._dense_every)
        pixels = torch.from_numpy(np.ascontiguousarray(frame))[None]
        layout = model.layout(model_input(task.preprocess, model.vit, pixels))
        rule = RULES[name](layout, self._budget)
        return VideoRunner(EventfulModel(model.vit, rule, model.options, model.saliency), task, self._dense_every)

    def panels(self, results: Mapping[str, FrameResult], names: Sequence[str], overlay: bool = True) -> Frame:
        """A frame of the film: a panel for each policy, as many rows as columns or one less."""
        made = []
        for name, result in results.items():
            course = self.courses[name]
            header = f"{name} | MACs {result.macs_ratio:.1%} (mean {course.mean_share:.1%})"
            header += f" | {1 / median(course.seconds):.1f} frames/s"
            mask = None if result.flush or not overlay or name == "dense" else result.rate_RC
            made.append(annotate(result.frame, result.predictions, mask, header, names))
        return _grid(made)

    def heat_map(self) -> Frame | None:
        """The last frame for each policy, each cell tinted by how often it was updated; None before two frames."""
        if self._last is None or not any(course.steady for course in self.courses.values()):
            return None
        made = []
        for name, course in self.courses.items():
            rate_RC = None if course.updates_RC is None else course.updates_RC / course.steady
            header = name if rate_RC is None else f"{name} | a cell was updated in {rate_RC.mean():.1%} of the frames"
            made.append(annotate(self._last, (), rate_RC, header))
        return _grid(made)

    def table(self) -> list[str]:
        """What they come to, a line each."""
        if not self.motion:
            return ["no frames"]
        lines = [f"{'policy':<10} {'MACs':>7} {'ms a frame':>11} {'distance':>9}"]
        for name, course in self.courses.items():
            steady = course.shares[1:] or course.shares
            distance = f"{fmean(course.distances):.4f}" if course.distances else "-"
            lines.append(f"{name:<10} {fmean(steady):>7.1%} {1000 * median(course.seconds):>11.1f} {distance:>9}")
        return lines

    def write_curve(self, path: Path) -> None:
        """Draws each policy's share of the dense MACs and the motion of the picture, over the frames."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4), layout="constrained")
        spent, moved = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
        for name, course in self.courses.items():
            # The flush would hide the rest.
            spent.plot(range(1, len(course.shares)), [100 * share for share in course.shares[1:]], label=name)
        spent.set_yscale("log")
        spent.set_ylabel("% of dense MACs")
        spent.legend(fontsize="small", ncols=len(self.courses), loc="upper right")
        moved.plot(range(1, len(self.motion)), self.motion[1:], color="grey")
        moved.set_ylabel("change of a pixel")
        moved.set_xlabel("frame")
        replace_file(path, partial(figure.savefig, dpi=150, format="png"))


def side_pictures(out: str) -> tuple[Path, Path]:
    """Where the map of updates and the curve of motion go, beside the film."""
    beside = Path(out).with_suffix("")
    return beside.with_name(f"{beside.name}-updates.png"), beside.with_name(f"{beside.name}-motion.png")


def write_picture(path: Path, picture: Frame) -> None:
    """Writes a PNG.

    Raises:
        UserError: If that cannot be done.
    """
    replace_file(path, partial(Image.fromarray(picture).save, format="PNG"))


def _grid(panels: Sequence[Frame]) -> Frame:
    columns = math.ceil(math.sqrt(len(panels)))
    blank = np.zeros_like(panels[0])
    cells = [*panels, *[blank] * (-len(panels) % columns)]
    return np.concatenate([np.concatenate(cells[k : k + columns], 1) for k in range(0, len(cells), columns)])
