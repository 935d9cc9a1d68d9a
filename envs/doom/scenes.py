"""Which maps and seeds make up each split of the Doom detection task.

`train`, `val` and `test` share their maps and differ in their seeds; `test_maps` has maps that no other split
has. `detector` is what the dense detector learns from: the maps of `train`, other seeds than every other
split. Split by seed means that the seeds of two splits can never be equal: each split owns a range of
`SEED_RANGE` seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

SEED_RANGE = 1_000_000


@dataclass(frozen=True)
class Scene:
    """A place to record in.

    Attributes:
        name: Name of the scene in clip names and tags.
        wad: Name of a file in ViZDoom's scenario folder; empty for a map of Freedoom itself.
        map: Name of the map inside the file.
        summons: Largest number of objects that are summoned to enliven the place.
    """

    name: str
    wad: str
    map: str
    summons: int = 6


def _freedoom(*numbers: int) -> tuple[Scene, ...]:
    return tuple(Scene(f"MAP{n:02d}", "", f"MAP{n:02d}") for n in numbers)


def _scenario(name: str, summons: int) -> Scene:
    return Scene(name, f"{name}.wad", "map01", summons)


SEEN = (
    *_freedoom(1, 2, 3, 4, 6, 8, 10, 13),
    _scenario("defend_the_center", 2),
    _scenario("defend_the_line", 2),
    _scenario("deadly_corridor", 3),
    _scenario("health_gathering", 4),
    _scenario("deathmatch", 5),
)
UNSEEN = (*_freedoom(5, 7, 11, 15), _scenario("health_gathering_supreme", 4), _scenario("my_way_home", 6))


@dataclass(frozen=True)
class Split:
    """Scenes of a split, its range of seeds, and how many clips it has by default."""

    scenes: tuple[Scene, ...]
    first_seed: int
    size: int


SPLITS: dict[str, Split] = {
    "train": Split(SEEN, 0, 64),
    "val": Split(SEEN, SEED_RANGE, 16),
    "test": Split(SEEN, 2 * SEED_RANGE, 24),
    "test_maps": Split(UNSEEN, 3 * SEED_RANGE, 16),
    "detector": Split(SEEN, 4 * SEED_RANGE, 512),
}


def split_named(name: str) -> Split:
    """The split of that name.

    Raises:
        ValueError: If there is none; the message names those there are.
    """
    if name not in SPLITS:
        raise ValueError(f"task doom has no split {name!r}; it has {', '.join(SPLITS)}")
    return SPLITS[name]
