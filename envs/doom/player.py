"""The seeded player who carries the camera: stands, pans, explores or follows what it sees.

Every choice comes from one NumPy generator, so a seed fixes the whole recording.
"""

from __future__ import annotations

from typing import Any

import numpy as np

STYLES = ("stand", "pan", "explore", "follow")
"""`stand` never moves, `pan` turns on the spot, `explore` walks about, `follow` keeps something in sight."""

FORWARD, BACKWARD, LEFT, RIGHT, TURN, ATTACK, USE = range(7)
"""Positions of the buttons in an action; `TURN` is in degrees per tic, the others are 0 or 1."""

_STUCK_DISTANCE = 1.5
_SCREEN_CENTRE = 160


class Player:
    """Chooses actions in one style.

    Args:
        style: Way of moving, one of `STYLES`.
        rng: Random generator of all choices.
        fire_rate: Share of the actions that pull the trigger.
    """

    def __init__(self, style: str, rng: np.random.Generator, fire_rate: float = 0.0) -> None:
        if style not in STYLES:
            raise ValueError(f"unknown style {style!r}; choose from {', '.join(STYLES)}")
        self.style = style
        self.rng = rng
        self.fire_rate = fire_rate
        self.rate = float(rng.uniform(0.7, 2.5) * rng.choice((-1, 1)))
        self.turn = 0.0
        self.escape = 0
        self.walk = 1
        self.position: tuple[float, float] | None = None

    def act(self, position: tuple[float, float], object_centres: list[float]) -> list[float]:
        """The next action.

        Args:
            position: The player's place (x, y) on the map.
            object_centres: Columns, in pixels of a 320-wide frame, of the centres of the labelled objects.
        """
        action = [0.0] * 7
        action[ATTACK] = float(self.rng.random() < self.fire_rate)
        if self.style == "pan":
            if self.rng.random() < 0.03:
                self.rate = -self.rate
            action[TURN] = self.rate
        elif self.style != "stand":
            self._walk(action, position, object_centres)
        return action

    def _walk(self, action: list[float], position: tuple[float, float], object_centres: list[float]) -> None:
        moved = np.inf if self.position is None else float(np.hypot(*np.subtract(position, self.position)))
        self.position = position
        if self.walk == 1 and moved < _STUCK_DISTANCE and self.escape == 0:
            self.escape = int(self.rng.integers(4, 14))
            self.rate = float(self.rng.choice((-6.0, 6.0)))
            action[USE] = 1.0
        if self.escape > 0:
            self.escape -= 1
            action[TURN] = self.rate
            return
        if self.style == "follow" and object_centres:
            nearest = min(object_centres, key=lambda x: abs(x - _SCREEN_CENTRE))
            action[TURN] = float(np.clip((nearest - _SCREEN_CENTRE) * 0.03, -3.0, 3.0))
        else:
            self.turn = 0.9 * self.turn + float(self.rng.normal()) * 0.6
            action[TURN] = self.turn
        if self.rng.random() < 0.06:
            self.walk = int(self.rng.choice((0, 1, 1, 1, 2, 3, 4)))
        if self.walk:
            action[(FORWARD, RIGHT, LEFT, BACKWARD)[self.walk - 1]] = 1.0


def camera_of(style: str) -> str:
    """`standing` or `moving`, the tag by which results are grouped."""
    return "standing" if style == "stand" else "moving"


def object_columns(labels: list[Any]) -> list[float]:
    """Centres of ViZDoom labels, in pixels from the left."""
    return [label.x + label.width / 2 for label in labels]
