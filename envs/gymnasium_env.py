"""Gymnasium environments in which an agent chooses the tokens that an eventful model updates.

An episode is one clip, from its flush to its end. `reset` computes the clip's first frame densely and shows the
second; a step is one decision; after the last frame's, the episode is truncated (never terminated) and shows the last
frame once more. Spaces, rewards and `info` are described in docs/environments.md.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, MultiBinary, Space
from numpy.typing import NDArray

from envs.engine import SelectionEngine
from envs.observation import LIMIT
from envs.scoring import FrameScore
from eventful.video.overlay import annotate
from policies.protocol import Granularity

METADATA: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 25}

Observation = NDArray[np.float32]
Action = NDArray[np.int8]


class SelectionEnv(gymnasium.Env[Observation, Action]):
    """One stream.

    Args:
        render_mode: Kind of rendering: `rgb_array` for pictures, None for none.
        **options: Arguments of `envs.engine.SelectionEngine`.
    """

    metadata = METADATA
    granularity: Granularity

    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        check_render_mode(render_mode)
        self.render_mode = render_mode
        self.engine = SelectionEngine(self.granularity, **options)
        self.observation_space, self.action_space = spaces(self.engine)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins a clip.

        Args:
            seed: Seed of the clips and budgets that are drawn from now on.
            options: Values that are given instead of drawn: `clip` (name or index), `frame` (of the flush), `budget`.

        Raises:
            ValueError: If an option does not exist or fit.
        """
        super().reset(seed=seed)
        self.engine.start({0: self.engine.episodes.sample(self.np_random, options)})
        return self.engine.observations()[0], self.engine.where(0)

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Decides at one gate.

        Raises:
            StreamError: If the episode is over, or has not begun.
            ValueError: If the action has the wrong shape.
        """
        score = self.engine.step(as_mask(action)[None]).get(0)
        reward = 0.0 if score is None else score.reward
        return self.engine.observations()[0], reward, False, self.engine.slots[0].over, step_info(self.engine, 0, score)

    def render(self) -> NDArray[np.uint8] | None:
        """The last complete frame with the updated tokens tinted, uint8 (H, W, 3)."""
        return None if self.render_mode is None else picture(self.engine, 0)


class FrameSelectionEnv(SelectionEnv):
    """`eventful/FrameSelection-v0`: a step is a frame, one mask for all gates."""

    granularity = "frame"


class GateSelectionEnv(SelectionEnv):
    """`eventful/GateSelection-v0`: a step is one gate's decision; the reward comes when the frame is complete."""

    granularity = "gate"


def spaces(engine: SelectionEngine) -> tuple[Space[Any], Space[Any]]:
    """Observation and action space of one stream."""
    tokens = engine.layout.tokens
    return Box(-LIMIT, LIMIT, (tokens, len(engine.features)), np.float32), MultiBinary(tokens)


def check_render_mode(render_mode: str | None) -> None:
    """Raises ValueError for a render mode that does not exist."""
    if render_mode not in (None, *METADATA["render_modes"]):
        raise ValueError(f"render_mode must be one of {', '.join(METADATA['render_modes'])}, got {render_mode!r}")


def as_mask(action: Any) -> torch.Tensor:
    """Actions of any number type as a mask."""
    return torch.from_numpy(np.asarray(action) != 0)


def step_info(engine: SelectionEngine, stream: int, score: FrameScore | None) -> dict[str, Any]:
    """`info` of a stream after a step: where it stands, and the frame's scores if one is complete."""
    return engine.where(stream) | ({} if score is None else score.info())


def picture(engine: SelectionEngine, stream: int) -> NDArray[np.uint8]:
    """A stream's last complete frame with the updated tokens tinted, by the share of gates that updated them."""
    clip, frame, rate_hw = engine.shown(stream)
    header = f"{clip.name}  frame {frame}  updated {rate_hw.mean():.0%}"
    return annotate(clip.frames_THWC[frame].numpy(), mask_RC=rate_hw, header=header)
