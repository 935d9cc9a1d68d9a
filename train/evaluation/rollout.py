"""Runs a policy over held-out clips and measures it: the same frames and the same accounting for every policy.

Clips of equal length and size run as independent streams of one model, from a flush to the end. The flush itself is
dense whatever the policy, so everything is scored on the frames after it (but for metrics of whole clips).

Shape suffixes: B streams, T frames, N tokens, D channels, H height, W width, C channels, G gates, U clips,
R resamples.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.task import Clip, Metric, Target, VideoTask, has_metric, of_whole_clips, offers
from eventful import EventfulModel, StreamState
from eventful.fidelity import token_distance
from eventful.tensor_tree import stream_of
from policies import Policy
from train.evaluation.oracle import Oracle
from train.evaluation.results_file import Key, Record

_HALF_LIMIT = 6e4
"""Larger values do not fit into half precision."""


@dataclass(frozen=True)
class ClipBatch:
    """Clips that run side by side: equal numbers of frames, equal frame sizes."""

    clips: Sequence[Clip]

    def __len__(self) -> int:
        return len(self.clips[0])

    def frame(self, t: int) -> Tensor:
        """Frame t of each clip (B, H, W, 3), uint8."""
        return torch.stack([clip.frames_THWC[t] for clip in self.clips])


def batch_clips(clips: Sequence[Clip], streams: int) -> list[ClipBatch]:
    """Cuts clips into groups of at most `streams`; those of one shape stay in order."""

    def shape(clip: Clip) -> tuple[int, ...]:
        return tuple(clip.frames_THWC.shape)

    alike = [list(same) for _, same in groupby(sorted(clips, key=shape), key=shape)]
    return [ClipBatch(same[i : i + streams]) for same in alike for i in range(0, len(same), streams)]


class Footage:
    """Held-out clips as model inputs, with the dense model's outputs, which are computed once.

    Args:
        task: Task with the model, whose `preprocess` makes model inputs.
        clips: Clips to evaluate on, each of two frames or more.
        streams: Largest number B of clips side by side in one batch.
        device: Device of the model.
        dtype: Data type of the model.
        cache_bytes: Bytes for kept dense outputs; what does not fit is computed again for every policy.

    Raises:
        ValueError: If there is no clip, or one has fewer than two frames.
    """

    def __init__(
        self,
        task: VideoTask,
        clips: Sequence[Clip],
        streams: int,
        device: torch.device,
        dtype: torch.dtype,
        cache_bytes: int = 1 << 30,
    ) -> None:
        if not clips:
            raise ValueError("there are no clips to evaluate on")
        short = next((clip for clip in clips if len(clip) < 2), None)
        if short is not None:
            raise ValueError(f"clip {short.name!r} has {len(short)} frames; the first is a flush, so 2 are needed")
        self.task, self.groups, self.clips = task, batch_clips(clips, streams), clips
        self._device, self._dtype = device, dtype
        self._room = cache_bytes
        self._dense: dict[tuple[int, int], Tensor] = {}
        self._targets: dict[tuple[int, int], Sequence[Target]] = {}

    def inputs(self, group: ClipBatch, t: int) -> Tensor:
        """Model input of frame t (B, 3, H, W)."""
        return self.task.preprocess(group.frame(t).to(self._device)).to(self._dtype)

    def dense(self, group: ClipBatch, t: int, frame: Tensor) -> Tensor:
        """The dense model's features of frame t."""
        key = (id(group), t)
        if key in self._dense:
            return self._dense[key]
        features: Tensor = self.task.model.forward_features(frame)  # type: ignore[operator]
        if key not in self._targets:
            self._targets[key] = self._targets_of(group, t, features)
        half = features.half() if features.abs().max() < _HALF_LIMIT else features
        size = half.numel() * half.element_size()
        if size <= self._room:
            self._room -= size
            self._dense[key] = half
        # Also when there is no room, so that results do not depend on the size of the cache.
        return half

    def targets(self, group: ClipBatch, t: int, frame: Tensor) -> Sequence[Target]:
        """What frame t of each clip is scored against: its labels, or what the dense model makes of it."""
        key = (id(group), t)
        if key not in self._targets:
            self.dense(group, t, frame)
        return self._targets[key]

    def _targets_of(self, group: ClipBatch, t: int, features: Tensor) -> Sequence[Target]:
        if self.task.has_labels:
            return [clip.targets[t] for clip in group.clips]
        if not offers(self.task, "targets_from_dense"):
            return []
        # Of the features before they are rounded to half precision: the dense model agrees with itself.
        task: Any = self.task
        return task.targets_from_dense(task.model.forward_head(features))


@torch.inference_mode()
def evaluate_policy(
    model: EventfulModel, policy: Policy, footage: Footage, key: Key, draws_RU: np.ndarray, detail: str = ""
) -> Record:
    """Runs a policy over all clips.

    Args:
        model: The eventful model around the task's; its policy and state are replaced.
        policy: Policy with its budget set.
        footage: Held-out clips.
        key: Key of the run.
        draws_RU: Resamples of the clips (indices into `footage.clips`), from `frontier.draw`.
        detail: The policy's setting, for the record.
    """
    started = time.perf_counter()
    metric = footage.task.metric() if has_metric(footage.task) else None
    tallies: dict[str, Tally] = {}
    model.policy = policy
    for group in footage.groups:
        tallies |= _run_group(model, footage, group, metric)
    model.reset()
    rows = [tallies[clip.name] for clip in footage.clips]
    names = [clip.name for clip in footage.clips]
    metric_R = [] if metric is None else [metric.compute([names[u] for u in draw_U]) for draw_U in draws_RU]
    frames_U = [row.frames for row in rows]
    columns = {name: [row.mean(name) for row in rows] for name in ("share", "overall", "policy", "distance", "worst")}
    rates_GU = np.array([(row.sum_rates / row.frames).tolist() for row in rows]).T
    return Record(
        key=key,
        detail=detail,
        clips=names,
        frames_U=frames_U,
        share_flush_U=[(row.sums["share"] + row.flush_share) / (row.frames + 1) for row in rows],
        age_max_U=[row.age_max for row in rows],
        rates_G=np.average(rates_GU, axis=1, weights=frames_U).tolist(),
        metric_R=[float(value) for value in metric_R],
        seconds=time.perf_counter() - started,
        **{f"{name}_U": column for name, column in columns.items()},
    )


class Tally:
    """Running sums of one clip."""

    def __init__(self) -> None:
        self.frames, self.age_max, self.flush_share = 0, 0, 0.0
        self.sums: dict[str, float] = {}
        self.sum_rates = torch.zeros(())

    def add(self, values: Mapping[str, float], rates_G: Tensor, age_max: int) -> None:
        """One frame after the flush."""
        self.frames += 1
        self.age_max = max(self.age_max, age_max)
        self.sum_rates = self.sum_rates + rates_G
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def mean(self, name: str) -> float:
        """Over the frames."""
        return self.sums[name] / self.frames


def _run_group(model: EventfulModel, footage: Footage, group: ClipBatch, metric: Metric | None) -> dict[str, Tally]:
    """Streams one group of clips from a flush; updates the metric."""
    tallies = [Tally() for _ in group.clips]
    model.reset()
    for t in range(len(group)):
        frame = footage.inputs(group, t)
        if isinstance(model.policy, Oracle):
            model.policy.foresee(model, frame)
        features, outputs, model.state = model.step_with_features(frame, model.state, model.policy.select)
        if t == 0:
            for tally, share in zip(tallies, model.macs.share.tolist(), strict=True):
                tally.flush_share = share
        else:
            columns = _measure(model, features, footage.dense(group, t, frame))
            rates_BG, age_max_B = _rates_and_oldest(model.state)
            rows = zip(tallies, rates_BG.cpu(), age_max_B.tolist(), strict=True)
            for b, (tally, rates_G, age_max) in enumerate(rows):
                tally.add({name: column[b] for name, column in columns.items()}, rates_G, age_max)
        if metric is not None and (t > 0 or of_whole_clips(metric)):
            targets = footage.targets(group, t, frame)
            for b, clip in enumerate(group.clips):
                metric.update(clip.name, stream_of(outputs, b), [targets[b]])
    return {clip.name: tally for clip, tally in zip(group.clips, tallies, strict=True)}


def _measure(model: EventfulModel, features: Tensor, dense: Tensor) -> dict[str, list[float]]:
    """Per stream: shares of the dense MACs and distances of this frame."""
    macs = model.macs
    mean_B, worst_B = token_distance(features, dense)
    policy_B = macs.by_operation.get("policy", torch.zeros_like(macs.total)) / macs.dense_B
    columns = {
        "share": macs.share,
        "overall": macs.overall_share,
        "policy": policy_B,
        "distance": mean_B,
        "worst": worst_B,
    }
    return {name: column.tolist() for name, column in columns.items()}


def _rates_and_oldest(state: StreamState | None) -> tuple[Tensor, Tensor]:
    """Share of the tokens that each gate updated in the last frame (B, G), and the greatest age (B,)."""
    if state is None:
        raise ValueError("there is no state before the first frame")
    ages_BGN = state.ages()
    return (ages_BGN == 0).double().mean(2), ages_BGN.amax((1, 2))
