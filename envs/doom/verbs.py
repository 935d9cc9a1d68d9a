"""First-person clips of what the player does: the embedded counterpart of EPIC-KITCHENS' verbs.

A clip shows one verb from its first to its last frame, with the weapon in view and a slight sway of the camera. The
player first wanders about, so that it starts somewhere on the map, and stands still for a moment. What cannot be seen
is not recorded: where a wall is in the way, or no shot is fired, the player wanders on and tries again, later in
another game; the seed fixes all of it.

Clips are balanced: clip k of a split shows verb k modulo their number. Splits have the maps and the ranges of seeds of
the detection task, and other seeds within them.

Shape suffixes: T frames, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.doom.player import ATTACK, BACKWARD, FORWARD, LEFT, RIGHT, TURN
from envs.doom.record import open_game, wander
from envs.doom.scenes import SEED_RANGE, Scene, split_named

_BUTTONS: dict[str, int | None] = {
    "idle": None,
    "forward": FORWARD,
    "back": BACKWARD,
    "strafe_left": LEFT,
    "strafe_right": RIGHT,
    "turn_left": TURN,
    "turn_right": TURN,
    "shoot": ATTACK,
}
VERBS = tuple(_BUTTONS)

_MOVES = (FORWARD, BACKWARD, LEFT, RIGHT)
_FIRST_SEED = SEED_RANGE // 2
"""Above the seeds of the detection task's clips, in the range of each split."""

_ATTEMPTS = 24
_PLACES = 16
"""Places that are tried in one game: starting a game takes as long as walking for half a minute."""

_REST_TICS = 20
_SWAY = 0.15
_FRAMES_TO_START = 3
_LEAST_SPEED = 2.0
"""Map units in a tic below which a walking player has run into something."""

_MOST_DRIFT = 0.5
"""Map units in a tic above which a player who does not walk is pushed."""


@dataclass(frozen=True)
class VerbClip:
    """Which clip is to be recorded.

    Attributes:
        name: Its name, unique within the split.
        verb: One of `VERBS`.
        scene: Place to record in.
        seed: Seed of the game and the player.
    """

    name: str
    verb: str
    scene: Scene
    seed: int

    @property
    def label(self) -> int:
        """Number of its verb."""
        return VERBS.index(self.verb)


def verb_clips(split: str, count: int) -> list[VerbClip]:
    """The first clips of a split, balanced over verbs and, in larger numbers, over maps.

    Args:
        split: `train`, `val`, `test`, or `test_maps` (maps that no other split has).
        count: Number of clips.

    Raises:
        ValueError: If there is no such split, or the number is not positive.
    """
    chosen = split_named(split)
    if not 1 <= count <= SEED_RANGE - _FIRST_SEED:
        raise ValueError(f"count must be 1 to {SEED_RANGE - _FIRST_SEED}, got {count}")
    # The scenarios are single rooms, in which walking soon ends at a wall.
    scenes = [scene for scene in chosen.scenes if not scene.wad]
    clips = []
    for k in range(count):
        scene = scenes[k // len(VERBS) % len(scenes)]
        verb = VERBS[k % len(VERBS)]
        clips.append(VerbClip(f"{split}-{k:05d}-{scene.name}", verb, scene, chosen.first_seed + _FIRST_SEED + k))
    return clips


def record_verb(clip: VerbClip, frames: int = 32, step: int = 2) -> NDArray[np.uint8]:
    """Records a clip; the same arguments give the same bytes.

    Args:
        clip: What to record.
        frames: Number of frames.
        step: Tics (1/35 s) from frame to frame.

    Returns:
        RGB frames (T, 240, 320, 3).

    Raises:
        ValueError: If `frames` or `step` is not positive.
        RuntimeError: If the verb could be seen in no attempt.
        ImportError: If ViZDoom is not installed.
    """
    if frames < 1 or step < 1:
        raise ValueError(f"frames and step must be positive, got frames={frames}, step={step}")
    for attempt in range(_ATTEMPTS):
        shots = _attempt(clip, np.random.default_rng((clip.seed, attempt)), frames, step)
        if shots is not None:
            return shots
    raise RuntimeError(f"clip {clip.name}: {clip.verb} could be seen in none of {_ATTEMPTS} attempts")


def _attempt(clip: VerbClip, rng: np.random.Generator, frames: int, step: int) -> NDArray[np.uint8] | None:
    """Plays one game, in which several places are tried; None if the verb could be seen at none of them."""
    with open_game(clip.scene, int(rng.integers(1, 2**31 - 1)), weapon=True) as game:
        for command in ("god", "notarget"):
            game.send_game_command(command)
        for _ in range(_PLACES):
            wander(game, rng, int(rng.integers(10, 100)))
            if game.is_episode_finished():
                return None
            game.make_action([0.0] * 7, _REST_TICS)
            shots = _film(game, clip.verb, rng, frames, step)
            if shots is not None:
                return shots
    return None


def _film(game: Any, verb: str, rng: np.random.Generator, frames: int, step: int) -> NDArray[np.uint8] | None:
    """Records a clip where the player stands; None as soon as the verb cannot be seen, or if the game ends."""
    turn = float(rng.uniform(1.5, 4.0)) * (-1 if verb == "turn_left" else 1)
    shots: list[NDArray[np.uint8]] = []
    ammo = _ammo(game)
    place_2 = None
    while len(shots) < frames and not game.is_episode_finished():
        state = game.get_state()
        before_2, place_2 = place_2, np.array(state.game_variables[:2])
        if before_2 is not None and not _goes_on(verb, np.hypot(*(place_2 - before_2)) / step, len(shots)):
            return None
        shots.append(state.screen_buffer.copy())
        game.make_action(_action(verb, turn, rng), step)
    fired = _ammo(game) < ammo
    return np.stack(shots) if len(shots) == frames and fired == (verb == "shoot") else None


def _goes_on(verb: str, speed: float, frame: int) -> bool:
    """Whether the player moves as the verb says, in map units a tic; at first it only gathers speed."""
    if _BUTTONS[verb] in _MOVES:
        return speed > _LEAST_SPEED or frame < _FRAMES_TO_START
    return speed < _MOST_DRIFT


def _action(verb: str, turn: float, rng: np.random.Generator) -> list[float]:
    action = [0.0] * 7
    action[TURN] = _SWAY * float(rng.normal())
    button = _BUTTONS[verb]
    if button == TURN:
        action[TURN] += turn
    elif button is not None:
        action[button] = 1.0
    return action


def _ammo(game: Any) -> float:
    import vizdoom as vzd

    return float(game.get_game_variable(vzd.GameVariable.SELECTED_WEAPON_AMMO))
