"""Timing of eventful models against the dense one: every frame goes through all of them in turn.

Whatever else the machine does then meets all sides alike, and ratios are taken frame by frame.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import eventful
from train.bench.case import Setting, player
from train.bench.dense import WAYS, DenseWay, race
from train.timing import Quartiles, quartiles, timed

RACE = 3
"""Frames on which the ways of running the dense model are compared."""


@dataclass(frozen=True)
class Timing:
    """One mode of a case. Times in ms; all triples are lower quartile, median, upper quartile.

    Attributes:
        ms: Time per frame.
        dense_ms: Time per frame of the fastest dense model, on the same frames.
        speedup: Speed-up over it.
        macs: Dense MACs over this mode's, in the blocks (the paper's accounting).
        macs_overall: Dense MACs over this mode's with patch embedding and head on both sides: what the times contain.
        by_operation: MACs of each operation in the last frame.
        state_bytes: Size of the state in bytes.
        distance: 1 - cosine between the outputs of the last frame and the dense model's of the same type of data.
    """

    ms: Quartiles
    dense_ms: Quartiles
    speedup: Quartiles
    macs: float
    macs_overall: float
    by_operation: dict[str, float]
    state_bytes: int
    distance: float


@torch.inference_mode()
def time_case(
    setting: Setting,
    modes: Sequence[str],
    ways: Sequence[str],
    frames: Iterator[Tensor],
    warmup: int,
    repeats: int,
    fastest: str | None = None,
) -> tuple[dict[str, Timing], list[DenseWay]]:
    """Runs `warmup` + `repeats` frames after the flush through the fastest dense model and all modes.

    Args:
        setting: Model, size, number of tokens, device and type.
        modes: Names of modes.
        ways: Ways of running the dense model, of which the fastest is taken.
        frames: Input frames.
        warmup: Frames that are not timed.
        repeats: Frames that are.
        fastest: The fastest way, where it is known: there is no race then.

    Returns:
        What was measured of each mode, and of each way that took part in a race.
    """
    vit = setting.build()
    models = {mode: setting.wrap(vit, mode) for mode in modes}
    dense, found = race(setting, vit, ways, frames, RACE) if fastest is None else (WAYS[fastest](vit), [])
    first = next(frames)
    players = {"dense": dense} | {mode: player(mode, model, first) for mode, model in models.items()}
    calls = {name: _LastOutput(play) for name, play in players.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for frame in itertools.islice(frames, warmup + repeats):
        for name, call in calls.items():
            seconds[name].append(timed(call, frame))
    times = {name: np.array(values[warmup:]) for name, values in seconds.items()}
    expected = calls["dense"].output
    return {
        mode: _timing(model, times["dense"], times[mode], _distance(calls[mode].output, expected))
        for mode, model in models.items()
    }, found


class _LastOutput:
    def __init__(self, call: Callable[[Tensor], Any]) -> None:
        self._call = call
        self.output = torch.empty(0)

    def __call__(self, frame: Tensor) -> None:
        self.output = self._call(frame)


def _distance(output: Tensor, expected: Tensor) -> float:
    a, b = output.double().flatten(), expected.double().flatten()
    return float(1 - torch.nn.functional.cosine_similarity(a, b, dim=0))


def _timing(model: eventful.EventfulModel, dense: np.ndarray, times: np.ndarray, distance: float) -> Timing:
    macs, state = model.macs, model.state
    if state is None:
        raise RuntimeError("the model has seen no frame")
    return Timing(
        ms=quartiles(times * 1e3),
        dense_ms=quartiles(dense * 1e3),
        speedup=quartiles(dense / times),
        macs=1 / float(macs.share[0]),
        macs_overall=1 / float(macs.overall_share[0]),
        by_operation={name: float(amount[0]) for name, amount in macs.by_operation.items()},
        state_bytes=state.nbytes(),
        distance=distance,
    )
