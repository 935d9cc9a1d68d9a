"""Natively batched selection environments: B streams in one forward pass.

Streams restart by themselves in the step after their clip has ended (`AutoresetMode.NEXT_STEP`): in that step the
action is ignored, the reward is 0, and the observation is the first of the new episode. It is no transition; do not
learn from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.engine import SelectionEngine
from envs.gymnasium_env import METADATA, as_mask, check_render_mode, picture, spaces, step_info
from policies.protocol import Granularity

Stepped = tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class SelectionVectorEnv(VectorEnv[NDArray[np.float32], NDArray[np.int8], NDArray[Any]]):
    """B streams; stream i is what the single environment seeded with `seed + i` is.

    Args:
        num_envs: Number B of streams.
        render_mode: Kind of rendering: `rgb_array` for pictures, None for none.
        max_episode_steps: Number of steps after which an episode is cut short, as by Gymnasium's `TimeLimit`; a
            multiple of the decisions of a frame, because streams begin anew between two frames. None for no limit.
        **options: Arguments of `envs.engine.SelectionEngine`.

    Raises:
        ValueError: If there is not one stream at least, or the limit of steps does not fit.
    """

    metadata = METADATA | {"autoreset_mode": AutoresetMode.NEXT_STEP}
    granularity: Granularity

    def __init__(
        self,
        num_envs: int = 1,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        **options: Any,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        check_render_mode(render_mode)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.engine = SelectionEngine(self.granularity, **options)
        self.single_observation_space, self.single_action_space = spaces(self.engine)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._randoms = [np_random()[0] for _ in range(num_envs)]
        gates = self.engine.layout.gates
        if max_episode_steps is not None and (max_episode_steps < 1 or max_episode_steps % gates):
            raise ValueError(
                f"max_episode_steps must be a positive multiple of {gates}, the decisions of a frame, "
                f"got {max_episode_steps}"
            )
        self._limit = max_episode_steps
        self._steps_B = np.zeros(num_envs, int)
        self._ended_B = np.zeros(num_envs, bool)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begins a clip in every stream.

        Args:
            seed: Seed of each stream, or one number s for s, s + 1, ...
            options: Options of the single environments, for all streams alike, and `reset_mask`, a bool array (B,) of
                the streams to reset.

        Raises:
            ValueError: If seeds or mask do not fit.
            StreamError: If the mask would leave streams behind in the middle of a frame.
        """
        given = dict(options or {})
        chosen_B = np.asarray(given.pop("reset_mask", np.ones(self.num_envs, bool)))
        if chosen_B.shape != (self.num_envs,) or chosen_B.dtype != np.bool_ or not chosen_B.any():
            raise ValueError(f"reset_mask must be a bool array ({self.num_envs},) with a True in it")
        seeds = self._seeds(seed)
        streams = [int(b) for b in np.flatnonzero(chosen_B)]
        for b in streams:
            if seeds[b] is not None:
                self._randoms[b] = np_random(seeds[b])[0]
        self.engine.start({b: self.engine.episodes.sample(self._randoms[b], given) for b in streams})
        self._steps_B[streams], self._ended_B[streams] = 0, False
        infos: dict[str, Any] = {}
        for b in streams:
            infos = self._add_info(infos, self.engine.where(b), b)
        return self.engine.observations(), infos

    def step(self, actions: NDArray[np.int8]) -> Stepped:
        """Decides at one gate of every stream; those whose clip ended in the step before begin a new one instead.

        Raises:
            StreamError: Before the first reset.
            ValueError: If the actions have the wrong shape.
        """
        engine = self.engine
        ended = [int(b) for b in np.flatnonzero(self._ended_B)]
        scores = engine.step(as_mask(actions), {b: engine.episodes.sample(self._randoms[b]) for b in ended})
        rewards_B = np.zeros(self.num_envs)
        infos: dict[str, Any] = {}
        for b in range(self.num_envs):
            rewards_B[b] = scores[b].reward if b in scores else 0.0
            infos = self._add_info(infos, step_info(engine, b, scores.get(b)), b)
        self._steps_B = np.where(self._ended_B, 0, self._steps_B + 1)
        self._ended_B = np.array([engine.slots[b].over for b in range(self.num_envs)])
        if self._limit is not None:
            self._ended_B |= self._steps_B >= self._limit
        return engine.observations(), rewards_B, np.zeros(self.num_envs, bool), self._ended_B.copy(), infos

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"there are {self.num_envs} streams, got {len(seed)} seeds")
        return list(seed)

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """The last complete frame of each stream, as the single environments show it."""
        if self.render_mode is None:
            return None
        return tuple(picture(self.engine, b) for b in range(self.num_envs))


class FrameSelectionVectorEnv(SelectionVectorEnv):
    """B streams of `eventful/FrameSelection-v0`."""

    granularity = "frame"


class GateSelectionVectorEnv(SelectionVectorEnv):
    """B streams of `eventful/GateSelection-v0`."""

    granularity = "gate"
