"""Time per frame of an eventful model against the dense one, on the same frames, in turn.

One stream. Each frame goes first through the dense model (fused attention, linear layers by the same library as the
eventful model's), then through the eventful one, so that whatever else the machine does meets both alike; the ratio is
taken frame by frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from envs.task import Clip, VideoTask
from eventful import EventfulModel
from eventful.linear.onednn import by_onednn
from eventful.tasks import model_input
from policies import Policy
from train.evaluation.results_file import Key, Latency
from train.timing import quartiles, timed

WARM_UP = 3
"""Frames after each flush that are not timed."""

CLIPS, PER_CLIP = 4, 30
"""Clips over which frames are spread, at least, and frames of one, at most, where there are so many clips: a policy
whose cost follows the content is faster on some than on others."""


@torch.inference_mode()
def measure_latency(
    task: VideoTask, model: EventfulModel, policy: Policy, clips: Sequence[Clip], frames: int, key: Key
) -> Latency:
    """Times a policy on a few clips.

    Args:
        task: Task with the dense model.
        model: The eventful model around it; its policy and state are replaced.
        policy: Policy with its budget set.
        clips: Clips to pick from; each runs from a flush, and back and forth if it is too short.
        frames: Number of timed frames, over all clips.
        key: Key of the result.
    """
    # Of two towers, the one that sees.
    dense = by_onednn(getattr(task.model, "get_image_features", task.model))
    model.policy = policy
    count = min(max(CLIPS, -(-frames // PER_CLIP)), len(clips))
    picked = [clips[k * len(clips) // count] for k in range(count)]
    seconds = []
    for clip in picked:
        model.reset()
        for k in range(WARM_UP + 1 + -(-frames // len(picked))):
            frame = _input(task, clip, k)
            pair = [timed(call, frame) for call in (dense, model)]
            if k > WARM_UP:
                seconds.append(pair)
    model.reset()
    dense_ms, eventful_ms = 1e3 * np.array(seconds).T
    ratios = quartiles(dense_ms / eventful_ms)
    in_all = float(dense_ms.sum() / eventful_ms.sum())
    return Latency(key, len(seconds), quartiles(dense_ms), quartiles(eventful_ms), ratios, in_all)


def _input(task: VideoTask, clip: Clip, k: int) -> Tensor:
    """Walks through the clip forwards and backwards, so that there is never a jump."""
    last = len(clip) - 1
    t = last - abs(last - k % (2 * last))
    return model_input(task.preprocess, task.model, clip.frames_THWC[t][None])
