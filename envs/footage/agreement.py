"""Agreement with the dense model: overlap of what both models find in the same frame, without labels.

Shape suffixes: B streams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from envs.task import Target


class Agreement:
    """Mean over frames of an overlap; implements `envs.task.Metric`.

    Args:
        found: Function from outputs (B, ...) to what is found in each frame.
        overlap: Function from what is found in a frame, and what the dense model finds there, to a number from 0 to 1.
    """

    def __init__(self, found: Callable[[Tensor], Sequence[Target]], overlap: Callable[[Target, Target], float]) -> None:
        self._found, self._overlap = found, overlap
        self._values: dict[str, list[float]] = {}

    def update(self, clip: str, outputs: Tensor, targets: Sequence[Target]) -> None:
        """Adds frames of a clip; targets are what the dense model finds."""
        pairs = zip(self._found(outputs), targets, strict=True)
        self._values.setdefault(clip, []).extend(self._overlap(found, dense) for found, dense in pairs)

    def compute(self, clips: Sequence[str] | None = None) -> float:
        """Mean over all frames of the named clips, with repetition, or of all clips; NaN without frames."""
        values = [value for clip in (self._values if clips is None else clips) for value in self._values.get(clip, [])]
        return sum(values) / len(values) if values else float("nan")
