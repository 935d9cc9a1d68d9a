"""The frontier as it moves during training: what learned and heuristic policies earn on validation clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from envs.engine import SelectionEngine
from eventful.video.frames import Frame
from policies import TrainablePolicy
from train.loop.playback import Playback, ValidationPoint

ValidationPoints = dict[str, list[ValidationPoint]]


class Validation:
    """Rolls policies out in an environment of validation clips.

    Args:
        engine: Environments of the validation clips.
        learned: Policy in training.
        heuristic: Policy as it was before training.
        budgets: K target shares of the dense MACs at which to look.
        streams: Largest number B of clips.
        frames: Largest number T of frames of each clip, the flush included.

    Attributes:
        budgets: The same.

    Raises:
        ValueError: If no clip has two frames.
    """

    def __init__(
        self,
        engine: SelectionEngine,
        learned: TrainablePolicy,
        heuristic: TrainablePolicy,
        budgets: Sequence[float] = (0.1, 0.2),
        streams: int = 8,
        frames: int = 32,
    ) -> None:
        self.budgets, self._learned = budgets, learned
        self._playback = Playback(engine, streams, frames)
        self._heuristic = self._points(heuristic.to(next(learned.parameters()).device))

    def points(self) -> ValidationPoints:
        """Points of both policies, by budget."""
        return {"learned": self._points(self._learned), "heuristic": self._heuristic}

    def pictures(self) -> list[Frame]:
        """Frames of a clip with what the trained policy updates at the first budget."""
        return self._playback.pictures(self._learned, self.budgets[0])

    def _points(self, policy: TrainablePolicy) -> list[ValidationPoint]:
        return self._playback.points(policy, self.budgets)


def as_rows(points: Mapping[str, Sequence[ValidationPoint]]) -> list[dict[str, float | str]]:
    """Plain data, one row for each policy and budget."""
    return [{"policy": name, **vars(point)} for name, some in points.items() for point in some]
