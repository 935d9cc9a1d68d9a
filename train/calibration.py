"""Thresholds that realise asked budgets: the calibrated heuristic, and the last step of every training.

First thresholds: run top-r with the count that costs the budget, and take each gate's mean r-th largest log error (or
whatever else the rule sets its threshold on).
Then shift all gates' thresholds together until the share of dense MACs that the policy really spends on these frames
equals the budget (a bracketed secant search of log share against log threshold).

Shape suffixes: B streams, T frames, N tokens, K budgets, G gates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import eventful
from envs.task import Clip, VideoTask
from policies import GateObservation, Policy, ScoreThreshold, Selection, ThresholdTable, TrainablePolicy
from policies.features import log_error

CalibrationFrames = Sequence[Tensor]
"""Model inputs: one tensor (B, 3, H, W) for each of T frames, the same B streams throughout."""

STEPS = 6
"""Trials per budget at most; mostly two or three are enough."""

TOLERANCE = 0.03
"""Of log share against log budget, at which a threshold counts as found."""

Rule = Callable[[GateObservation], Tensor]
"""What is compared with a threshold: (B, N), in units of log error."""


@dataclass(frozen=True)
class Calibration:
    """What a calibration run finds.

    Attributes:
        table: Thresholds by budget and gate.
        log_error_mean_G: Mean log error of each gate, for normalisation.
        log_error_std_G: Its standard deviation.
    """

    table: ThresholdTable
    log_error_mean_G: Tensor
    log_error_std_G: Tensor


def calibration_frames(task: VideoTask, clips: Sequence[Clip], streams: int, frames: int) -> CalibrationFrames:
    """The first frames of some clips, evenly picked, as model inputs.

    Args:
        task: Task whose `preprocess` makes model inputs.
        clips: Clips of the training split.
        streams: B at most.
        frames: T at most.

    Raises:
        ValueError: If there is no clip of two frames or more.
    """
    long_enough = [clip for clip in clips if len(clip) >= 2]
    if not long_enough:
        longest = max((len(clip) for clip in clips), default=0)
        raise ValueError(f"calibration needs clips of at least 2 frames; of {len(clips)} the longest has {longest}")
    stride = max(len(long_enough) // streams, 1)
    picked = long_enough[::stride][:streams]
    device = next(task.model.parameters()).device
    length = min(frames, min(len(clip) for clip in picked))
    return [task.preprocess(torch.stack([clip.frames_THWC[t] for clip in picked]).to(device)) for t in range(length)]


def calibrate(
    model: eventful.EventfulModel, frames: CalibrationFrames, budgets: Sequence[float], rule: Rule = log_error
) -> Calibration:
    """Finds per-gate thresholds for each budget; the model's policy and state are left as they were.

    Args:
        model: Eventful model. What its policy itself costs is part of what a budget pays for.
        frames: From `calibration_frames`.
        budgets: K ascending shares of the dense MACs.
        rule: What the thresholds are on.
    """
    found = first_thresholds(model, frames, budgets, rule)
    fit_table(model, frames, _RuleThreshold(found.table, rule))
    return found


def first_thresholds(
    model: eventful.EventfulModel, frames: CalibrationFrames, budgets: Sequence[float], rule: Rule = log_error
) -> Calibration:
    """`calibrate` without the search for the shift: thresholds that come near the budgets."""
    layout = model.layout(frames[0])
    own = model.policy.share(layout)
    table = ThresholdTable(budgets, layout.gates).to(frames[0].device)
    moments = _Moments(layout.gates)
    for k, budget in enumerate(budgets):
        watch = _TopRWatch(layout.count(budget - own), layout.gates, moments, rule)
        realised_share(model, frames, watch.select)
        table.log_threshold_KG[k] = watch.log_threshold_G().to(table.log_threshold_KG)
    mean_G, std_G = moments.mean_std()
    return Calibration(table, mean_G, std_G)


def fit_table(
    model: eventful.EventfulModel, frames: CalibrationFrames, policy: ScoreThreshold | TrainablePolicy
) -> None:
    """Shifts the thresholds of each budget, in place, until the policy spends that budget on the frames."""
    kept, table = policy.budget, policy.table
    for k, log_budget in enumerate(table.log_budget_K.tolist()):
        policy.budget = math.exp(log_budget)
        start_G = table.log_threshold_KG[k].clone()

        def share_at(shift: float, k: int = k, start_G: Tensor = start_G) -> float:
            table.log_threshold_KG[k] = start_G + shift
            return realised_share(model, frames, policy.select)

        table.log_threshold_KG[k] = start_G + solve_shift(share_at, policy.budget)
    policy.budget = kept
    # Thresholds that rise with the budget (from noise, at budgets that the footage cannot use up) would confuse users.
    table.log_threshold_KG.copy_(table.log_threshold_KG.cummin(0).values)


def install(policy: TrainablePolicy, calibration: Calibration) -> None:
    """Makes an untrained policy equal to the calibrated threshold."""
    with torch.no_grad():
        policy.table.log_threshold_KG.copy_(calibration.table.log_threshold_KG)
        policy.log_error_mean_G.copy_(calibration.log_error_mean_G)
        policy.log_error_std_G.copy_(calibration.log_error_std_G)


@torch.inference_mode()
def realised_share(
    model: eventful.EventfulModel, frames: CalibrationFrames, select: Callable[[GateObservation], Selection]
) -> float:
    """Mean share of the dense MACs over all streams and frames after the flush."""
    return float(torch.stack([share for _, share in played(model, frames, select)]).mean())


def played(
    model: eventful.EventfulModel, frames: CalibrationFrames, select: Callable[[GateObservation], Selection]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features of each frame after the flush, and the mean share of the dense MACs that it took."""
    _, state = eventful.drive(model.decisions(frames[0], None), select)
    for frame in frames[1:]:
        features, state = eventful.drive(model.decisions(frame, state), select)
        if state.macs is None:
            raise RuntimeError("a step left no MACs behind")
        yield features, state.macs.share.mean()


def solve_shift(
    share_at: Callable[[float], float], budget: float, tolerance: float = TOLERANCE, steps: int = STEPS
) -> float:
    """The shift at which log share meets log budget; the share falls as the shift rises, if not strictly.

    Secant steps as long as they stay within the bracket of what has been tried, halves of the bracket otherwise.

    Args:
        share_at: Realised share at a shift.
        budget: Asked share.
        tolerance: Largest distance of log share from log budget.
        steps: Trials at most.

    Returns:
        Of the shifts tried, the one that came closest.
    """
    low, high = -math.inf, math.inf
    tried: list[tuple[float, float]] = []
    shift = 0.0
    for _ in range(steps):
        gap = math.log(max(share_at(shift), 1e-6) / budget)
        tried.append((shift, gap))
        if abs(gap) < tolerance:
            break
        low, high = (max(low, shift), high) if gap > 0 else (low, min(high, shift))
        shift = _next_shift(tried, low, high)
    return min(tried, key=lambda pair: abs(pair[1]))[0]


def _next_shift(tried: Sequence[tuple[float, float]], low: float, high: float) -> float:
    shift, gap = tried[-1]
    slope = -1.0
    if len(tried) > 1:
        (x0, y0), (x1, y1) = tried[-2:]
        slope = min((y1 - y0) / (x1 - x0), -0.05)
    step = shift + max(min(-gap / slope, 2.0), -2.0)
    return step if low < step < high else (low + high) / 2


class _RuleThreshold(ScoreThreshold):
    """Any rule, by its score."""

    def __init__(self, table: ThresholdTable, rule: Rule) -> None:
        super().__init__(table)
        self._rule = rule

    def score(self, observation: GateObservation) -> Tensor:
        return self._rule(observation)


class _TopRWatch(Policy):
    """Top-r that remembers, for every gate, where the cut between selected and other tokens fell."""

    def __init__(self, r: int, gates: int, moments: _Moments, rule: Rule) -> None:
        self._r, self._moments, self._rule = r, moments, rule
        self._cuts: list[list[Tensor]] = [[] for _ in range(gates)]

    def select(self, observation: GateObservation) -> Selection:
        layout, score_BN = observation.layout, self._rule(observation)
        pinned = layout.pinned
        rank = min(max(self._r - pinned, 1), score_BN.shape[1] - pinned)
        self._cuts[observation.gate].append(score_BN[:, pinned:].topk(rank, dim=1).values[:, -1].mean())
        self._moments.add(observation.gate, log_error(observation)[:, layout.prefix :])
        return Selection.top(score_BN, self._r, pinned)

    def log_threshold_G(self) -> Tensor:
        return torch.stack([torch.stack(cuts).mean() for cuts in self._cuts])


class _Moments:
    """Running mean and standard deviation of log errors, gate by gate."""

    def __init__(self, gates: int) -> None:
        self._sums = torch.zeros(3, gates, dtype=torch.float64)

    def add(self, gate: int, values: Tensor) -> None:
        values = values.double().cpu()
        self._sums[:, gate] += torch.stack(
            [torch.tensor(float(values.numel())).double(), values.sum(), (values**2).sum()]
        )

    def mean_std(self) -> tuple[Tensor, Tensor]:
        count_G, sum_G, square_G = self._sums
        mean_G = sum_G / count_G
        variance_G = (square_G / count_G - mean_G**2).clamp(min=1e-4)
        return mean_G.float(), variance_G.sqrt().float()
