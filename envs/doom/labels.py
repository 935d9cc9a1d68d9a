"""Classes of the Doom detection task, and the rule for which objects count.

ViZDoom's labels buffer tells for every pixel which object drew it. A box is the exact bounding box of an
object's visible pixels. An object counts if its name is in `CLASS_MEMBERS`, it has at least `MIN_PIXELS`
visible pixels, and the shorter side of its box is at least `MIN_SIDE` pixels (at 320 x 240). So tiny and
hidden objects are dropped by one rule; corpses, blood, smoke, bullet puffs, decoration, the nearly invisible
spectre and the player's own weapon are not labelled at all.

Shape suffixes: H height, W width, K objects.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_PIXELS = 100
"""Fewest visible pixels of an object that counts."""

MIN_SIDE = 10
"""Shortest side in pixels of the box of an object that counts."""

CLASS_MEMBERS: dict[str, tuple[str, ...]] = {
    "soldier": ("Zombieman", "ShotgunGuy", "ChaingunGuy", "WolfensteinSS", "MarineChainsawVzd"),
    "imp": ("DoomImp",),
    "demon": ("Demon",),
    "flyer": ("Cacodemon", "LostSoul", "PainElemental"),
    "brute": ("HellKnight", "BaronOfHell", "Revenant", "Fatso", "Arachnotron", "Archvile"),
    "projectile": (
        "DoomImpBall",
        "CacodemonBall",
        "BaronBall",
        "Rocket",
        "FatShot",
        "ArachnotronPlasma",
        "RevenantTracer",
        "PlasmaBall",
    ),
    "health": ("Stimpack", "Medikit", "CustomMedikit", "HealthBonus", "Soulsphere", "Megasphere", "Berserk"),
    "armor": ("GreenArmor", "BlueArmor", "ArmorBonus"),
    "arms": (
        "Clip",
        "ClipBox",
        "Shell",
        "ShellBox",
        "RocketAmmo",
        "RocketBox",
        "Cell",
        "CellPack",
        "Backpack",
        "Shotgun",
        "SuperShotgun",
        "Chaingun",
        "RocketLauncher",
        "PlasmaRifle",
        "Chainsaw",
        "BFG9000",
    ),
    "barrel": ("ExplosiveBarrel",),
}
"""Class name -> ViZDoom object names."""

CLASS_NAMES: tuple[str, ...] = tuple(CLASS_MEMBERS)

_CLASS_OF = {member: k for k, members in enumerate(CLASS_MEMBERS.values()) for member in members}


def visible_boxes(labels: Iterable[Any], buffer_HW: NDArray[np.uint8]) -> tuple[NDArray, NDArray]:
    """Boxes of the objects that count in one frame.

    Args:
        labels: ViZDoom's labels of the frame (`object_name`, `value`, `x`, `y`, `width`, `height`).
        buffer_HW: The labels buffer: every pixel holds the `value` of the object that drew it.

    Returns:
        Boxes (K, 4) float32, xyxy in pixels with exclusive right and bottom edges, and classes (K,) int64.
    """
    boxes, classes = [], []
    for label in labels:
        kind = _CLASS_OF.get(label.object_name)
        if kind is None:
            continue
        window = buffer_HW[label.y : label.y + label.height + 1, label.x : label.x + label.width + 1]
        mask = window == label.value
        if mask.sum() < MIN_PIXELS:
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        width, height = columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]
        if min(width, height) < MIN_SIDE:
            continue
        x, y = label.x + columns[0], label.y + rows[0]
        boxes.append((x, y, x + width, y + height))
        classes.append(kind)
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64)
