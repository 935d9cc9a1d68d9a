"""Records one clip with ViZDoom: frames, boxes and classes.

A recording has three parts. The player explores for a while (so that the camera is somewhere); it is given
company by `summon` where the place is empty; then frames are recorded every `step` tics of 1/35 s. The player
is invulnerable, and its weapon and the status bar are not drawn. A recording in which too few frames show an
object is thrown away and the next attempt is made with the next random numbers of the same seed.

ViZDoom keeps settings in a file; each recording gets a fresh one, because a shared one would let one run's
settings leak into the next.

Shape suffixes: T frames, H height, W width, K objects of all frames.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.doom.labels import visible_boxes
from envs.doom.player import BACKWARD, STYLES, TURN, Player, camera_of, object_columns
from envs.doom.scenes import Scene

TICS_PER_SECOND = 35

_FOLDER = threading.Lock()
"""Held while a game makes or removes its folder: two engines that make it at once crash."""

_STYLE_ODDS = (0.4, 0.15, 0.2, 0.25)
_SUMMONS = (
    ("Zombieman", "ShotgunGuy", "ChaingunGuy"),
    ("DoomImp",),
    ("DoomImp",),
    ("Demon",),
    ("Cacodemon", "Cacodemon", "LostSoul"),
    ("HellKnight", "BaronOfHell", "Revenant", "Fatso", "Arachnotron"),
    ("HellKnight", "BaronOfHell", "Revenant", "Fatso", "Arachnotron"),
    ("Stimpack", "Medikit", "HealthBonus", "Soulsphere"),
    ("GreenArmor", "BlueArmor", "ArmorBonus"),
    ("ClipBox", "ShellBox", "RocketBox", "CellPack", "Shotgun", "Chaingun", "RocketLauncher", "PlasmaRifle"),
    ("ExplosiveBarrel",),
)
_ATTEMPTS = 8
_TICS_PER_DECISION = 2


@dataclass(frozen=True)
class Recording:
    """Frames of one clip with their labels.

    Attributes:
        frames: Frames (T, H, W, 3), uint8 RGB.
        boxes: Boxes (K, 4) of all frames one after another, float32, xyxy in pixels.
        classes: Class of each box (K,), int64.
        counts: Number of boxes of each frame (T,), int64.
        camera: Whether the camera moves: `standing` or `moving`.
        style: Style in which the player moved, one of `envs.doom.player.STYLES`.
    """

    frames: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    counts: NDArray[np.int64]
    camera: str
    style: str


def record(scene: Scene, seed: int, frames: int = 64, step: int = 2, min_seen: float = 0.6) -> Recording:
    """Records a clip; the same arguments give the same bytes.

    Args:
        scene: Place to record in.
        seed: Seed of the game and the player.
        frames: Number of frames.
        step: Tics (1/35 s) from frame to frame; 2 is 17.5 frames a second.
        min_seen: Smallest share of frames that must show an object.

    Raises:
        ValueError: If `frames` or `step` is not positive.
        RuntimeError: If no attempt showed enough objects.
        ImportError: If ViZDoom is not installed.
    """
    if frames < 1 or step < 1:
        raise ValueError(f"frames and step must be positive, got frames={frames}, step={step}")
    best: Recording | None = None
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng((seed, attempt))
        recording = _attempt(scene, rng, frames, step)
        if recording is None:
            continue
        if (recording.counts > 0).mean() >= min_seen:
            return recording
        if best is None or (recording.counts > 0).mean() > (best.counts > 0).mean():
            best = recording
    if best is None:
        raise RuntimeError(f"scene {scene.name}, seed {seed}: the game ended early {_ATTEMPTS} times")
    return best


@contextmanager
def open_game(scene: Scene, seed: int, weapon: bool = False) -> Iterator[Any]:
    """A running game of ViZDoom, closed on the way out.

    Args:
        scene: Place to play in.
        seed: Seed of the game.
        weapon: Whether the player's own weapon is drawn.

    Raises:
        ImportError: If ViZDoom is not installed.
    """
    try:
        import vizdoom as vzd
    except ImportError as error:
        raise ImportError("the doom task needs ViZDoom: pip install 'eventful-policies[doom]'") from error
    game = vzd.DoomGame()
    package = Path(vzd.__file__).parent
    game.set_doom_game_path(str(package / "freedoom2.wad"))
    if scene.wad:
        game.set_doom_scenario_path(str(Path(vzd.scenarios_path) / scene.wad))
    game.set_doom_map(scene.map)
    game.set_screen_resolution(vzd.ScreenResolution.RES_320X240)
    game.set_screen_format(vzd.ScreenFormat.RGB24)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_labels_buffer_enabled(True)
    game.set_render_hud(False)
    game.set_render_weapon(weapon)
    game.set_render_messages(False)
    game.set_render_crosshair(False)
    game.set_mode(vzd.Mode.PLAYER)
    game.set_episode_timeout(0)
    # Otherwise the engine leaves a cache of the map's geometry in the working directory.
    game.add_game_args("+gl_cachenodes 0")
    game.set_seed(seed)
    game.set_available_buttons(
        [
            vzd.Button.MOVE_FORWARD,
            vzd.Button.MOVE_BACKWARD,
            vzd.Button.MOVE_LEFT,
            vzd.Button.MOVE_RIGHT,
            vzd.Button.TURN_LEFT_RIGHT_DELTA,
            vzd.Button.ATTACK,
            vzd.Button.USE,
        ]
    )
    game.set_available_game_variables([vzd.GameVariable.POSITION_X, vzd.GameVariable.POSITION_Y])
    with tempfile.TemporaryDirectory() as folder:
        game.set_doom_config_path(str(Path(folder) / "vizdoom.ini"))
        with _FOLDER:
            game.init()
        try:
            yield game
        finally:
            game.close()
            # The engine makes this folder where the program runs, and has nothing to put there. Another game that
            # has just removed it, or somebody's files in it, are no reason to stop.
            with _FOLDER, suppress(OSError):
                Path("_vizdoom").rmdir()


def _attempt(scene: Scene, rng: np.random.Generator, frames: int, step: int) -> Recording | None:
    """One try; None if the game ended before the last frame."""
    style = str(rng.choice(STYLES, p=_STYLE_ODDS))
    shots, boxes, classes, counts = [], [], [], []
    with open_game(scene, int(rng.integers(1, 2**31 - 1))) as game:
        game.send_game_command("god")
        wander(game, rng, int(rng.integers(0, 240)))
        _summon_company(game, rng, int(rng.integers(1, scene.summons + 1)))
        player = Player(style, rng, fire_rate=float(rng.choice((0.0, 0.0, 0.08))))
        for _ in range(frames):
            if game.is_episode_finished():
                return None
            state = game.get_state()
            boxes_K4, classes_K = visible_boxes(state.labels, state.labels_buffer)
            shots.append(state.screen_buffer.copy())
            boxes.append(boxes_K4)
            classes.append(classes_K)
            counts.append(len(classes_K))
            _act(game, player, step)
    return Recording(
        frames=np.stack(shots),
        boxes=np.concatenate(boxes),
        classes=np.concatenate(classes),
        counts=np.array(counts, np.int64),
        camera=camera_of(style),
        style=style,
    )


def _act(game: Any, player: Player, tics: int) -> None:
    """Plays on for some tics; the player decides anew every `_TICS_PER_DECISION`, whatever the frame step."""
    while tics > 0 and not game.is_episode_finished():
        state = game.get_state()
        x, y = state.game_variables
        span = min(tics, _TICS_PER_DECISION)
        game.make_action(player.act((float(x), float(y)), object_columns(state.labels)), span)
        tics -= span


def wander(game: Any, rng: np.random.Generator, actions: int) -> None:
    """Walks about with no recording, so that the camera ends up somewhere on the map."""
    player = Player("explore", rng)
    for _ in range(actions):
        if game.is_episode_finished():
            return
        _act(game, player, _TICS_PER_DECISION)


def _summon_company(game: Any, rng: np.random.Generator, count: int) -> None:
    """Puts objects around the player, most of them in front, and steps back to see them."""
    if rng.random() < 0.3:
        game.send_game_command("notarget")
    action = [0.0] * 7
    for _ in range(count):
        if game.is_episode_finished():
            return
        angle = float(rng.normal() * 35)
        kinds = _SUMMONS[int(rng.integers(len(_SUMMONS)))]
        action[TURN] = angle
        game.make_action(action, 1)
        game.send_game_command(f"summon {kinds[int(rng.integers(len(kinds)))]}")
        action[TURN] = -angle
        game.make_action(action, 1)
        _step_back(game, int(rng.integers(2, 12)))
    _step_back(game, int(rng.integers(0, 24)))


def _step_back(game: Any, tics: int) -> None:
    action = [0.0] * 7
    action[BACKWARD] = 1.0
    if tics and not game.is_episode_finished():
        game.make_action(action, tics)
