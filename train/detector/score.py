"""Scores a dense detector on clips: fresh, and with predictions that are one second old.

The stale score says what a viewer gets who runs the detector once a second: an eventful model has to beat it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from envs.detection import MeanAveragePrecision50
from envs.doom.boxes import detections
from envs.doom.labels import CLASS_NAMES
from envs.doom.task import preprocess
from envs.task import Clip


@torch.inference_mode()
def score(model: nn.Module, clips: Sequence[Clip]) -> dict[str, float]:
    """mAP50 of a split, `stale` (predictions of one second earlier) and the AP of each class."""
    fresh, stale = (MeanAveragePrecision50(len(CLASS_NAMES)) for _ in range(2))
    now = MeanAveragePrecision50(len(CLASS_NAMES))
    for clip in clips:
        found = []
        for start in range(0, len(clip), 16):
            frames_BHWC = torch.stack(list(clip.frames_THWC[start : start + 16]))
            found += detections(model(preprocess(frames_BHWC)))
        late = round(clip.fps)
        for t, target in enumerate(clip.targets):
            fresh.add(clip.name, found[t], target)
            if t >= late:
                stale.add(clip.name, found[t - late], target)
                now.add(clip.name, found[t], target)
    by_class = {CLASS_NAMES[k]: value for k, value in fresh.by_class().items()}
    # `later` is the fresh score on exactly the frames that `stale` is scored on.
    return {"mAP50": fresh.compute(), "stale": stale.compute(), "later": now.compute(), **by_class}
