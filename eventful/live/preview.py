"""A window that shows frames as they come, and takes keys: the budget, a pause, the end."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Any

from eventful.checks.extras import require
from eventful.errors import UserError
from eventful.live.pace import LEAST
from eventful.video.frames import Frame

STEP = 1.25
"""What one press of a key multiplies the budget by, or divides it."""

ROOM = 0.9
"""Part of the screen that a new window takes at most."""

WAIT_MS = 50
"""Milliseconds between two looks at the keys during a pause."""

REPEAT_MS = (300, 80)
"""Milliseconds after which a key that is held down counts again, at first and from then on."""


@dataclass(frozen=True)
class Asked:
    """What was asked for by keys while a frame was shown.

    Attributes:
        budget: Share of the dense MACs for the next frames; None where it is not for keys to say.
        ended: Whether the run shall end.
        paused: Seconds that were spent in pauses.
    """

    budget: float | None
    ended: bool
    paused: float


class Preview:
    """The window: `+` and `-` (or up and down) turn the budget, space pauses, q, Escape or closing it ends.

    Use as a context manager, in the main thread. The window comes with the first frame and fits the screen; it can be
    resized.

    Raises:
        UserError: On entering, if there is no display, or pygame-ce (extra `preview`) is missing.
    """

    def __init__(self) -> None:
        self._pygame: Any = None
        self._window: Any = None
        self._frame: Any = None
        self._budget: float | None = None
        self._paused = self._ended = False

    def __enter__(self) -> Preview:
        require("--preview", "preview")
        drivers = _drivers()
        # Its greeting would be among the JSON lines.
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        import pygame

        try:
            with _set("SDL_VIDEODRIVER", drivers):
                pygame.display.init()
        except pygame.error as error:
            raise UserError(f"--preview needs a display that answers: {error}") from error
        self._pygame = pygame
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pygame.display.quit()

    def show(self, frame: Frame, budget: float | None = None) -> Asked:
        """Shows a frame, and does what keys have said since the last one; returns when no pause is on.

        Args:
            frame: uint8 RGB (H, W, 3).
            budget: Share of the dense MACs that keys shall turn; None if they shall not.

        Raises:
            UserError: If the window cannot be opened.
        """
        self._budget = budget
        height, width = frame.shape[:2]
        self._frame = self._pygame.image.frombuffer(frame.tobytes(), (width, height), "RGB")
        if self._window is None:
            self._open(width, height)
        self._draw()
        self._heed(self._pygame.event.get())
        started = perf_counter()
        while self._paused and not self._ended:
            if (event := self._pygame.event.wait(WAIT_MS)).type != self._pygame.NOEVENT:
                self._heed([event])
                self._draw()
        return Asked(self._budget, self._ended, perf_counter() - started)

    def _open(self, width: int, height: int) -> None:
        pygame = self._pygame
        screen = pygame.display.get_desktop_sizes()[0]
        scale = min(1.0, ROOM * screen[0] / width, ROOM * screen[1] / height)
        try:
            self._window = pygame.display.set_mode(_scaled(width, height, scale), pygame.RESIZABLE)
        except pygame.error as error:
            raise UserError(f"--preview cannot open a window: {error}") from error
        pygame.key.set_repeat(*REPEAT_MS)

    def _draw(self) -> None:
        """The frame in the middle of the window, as large as fits; the title says what keys do."""
        pygame = self._pygame
        room, size = self._window.get_size(), self._frame.get_size()
        fitted = _scaled(size[0], size[1], min(room[0] / size[0], room[1] / size[1]))
        picture = self._frame if fitted == size else pygame.transform.smoothscale(self._frame, fitted)
        self._window.fill((0, 0, 0))
        self._window.blit(picture, ((room[0] - fitted[0]) // 2, (room[1] - fitted[1]) // 2))
        pygame.display.set_caption(self.title)
        pygame.display.flip()

    @property
    def title(self) -> str:
        """What the window's title says."""
        turned = "" if self._budget is None else f"budget {self._budget:.1%} (+ and - turn it) | "
        return f"{turned}space {'goes on' if self._paused else 'pauses'} | q ends"

    def _heed(self, events: list[Any]) -> None:
        pygame = self._pygame
        for event in events:
            if event.type == pygame.QUIT:
                self._ended = True
            if event.type != pygame.KEYDOWN:
                continue
            # Where + needs Shift, its key without Shift is =.
            if event.key in (pygame.K_UP, pygame.K_KP_PLUS) or event.unicode in ("+", "="):
                self._turn(STEP)
            elif event.key in (pygame.K_DOWN, pygame.K_KP_MINUS) or event.unicode == "-":
                self._turn(1 / STEP)
            elif event.key == pygame.K_SPACE:
                self._paused = not self._paused
            elif event.key in (pygame.K_q, pygame.K_ESCAPE):
                self._ended = True

    def _turn(self, factor: float) -> None:
        if self._budget is not None:
            self._budget = min(max(self._budget * factor, LEAST), 1.0)


def _drivers() -> str | None:
    """The video drivers to try; None for SDL's own choice, which without a display is a picture that nobody sees."""
    asked = os.environ.get("SDL_VIDEODRIVER")
    if asked or sys.platform != "linux":
        return asked
    displays = {"x11": "DISPLAY", "wayland": "WAYLAND_DISPLAY"}
    there = [driver for driver, variable in displays.items() if os.environ.get(variable)]
    if not there:
        raise UserError(f"--preview needs a display: neither {' nor '.join(displays.values())} is set")
    return ",".join(there)


@contextmanager
def _set(variable: str, value: str | None) -> Iterator[None]:
    """An environment variable in the `with` block; nothing is changed for None."""
    before = os.environ.get(variable)
    if value is not None:
        os.environ[variable] = value
    try:
        yield
    finally:
        if value is not None and before is None:
            del os.environ[variable]


def _scaled(width: int, height: int, scale: float) -> tuple[int, int]:
    return max(round(width * scale), 1), max(round(height * scale), 1)
