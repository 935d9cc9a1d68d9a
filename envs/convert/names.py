"""Layouts of published checkpoints: what their arrays are called, and what they become."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from eventful.errors import UserError

Rule = tuple[str, str]
"""A regular expression that matches the beginning of a name, and what takes the place of what it matches."""


@dataclass(frozen=True)
class Layout:
    """One kind of checkpoint.

    Attributes:
        name: What it is, for people.
        model: Makes the model that the arrays are for on a device; its `state_dict` says what is expected.
        rules: Renamings, of which the first that matches is applied, once; without one a name is kept.
        reshape: What is done with arrays besides, by their new names.
        dropped: Regular expressions of names (beginnings) of what is known and not needed.
    """

    name: str
    model: Callable[[torch.device], nn.Module]
    rules: Sequence[Rule]
    reshape: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    dropped: Sequence[str] = ()

    def renamed(self, name: str) -> str:
        """The name of an array in the model."""
        for pattern, replacement in self.rules:
            new, count = re.subn("^(?:" + pattern + ")", replacement, name)
            if count:
                return new
        return name

    def is_dropped(self, name: str) -> bool:
        """Whether an array is known and not needed."""
        return any(re.match(pattern, name) for pattern in self.dropped)

    def expected(self) -> dict[str, torch.Size]:
        """Shapes of the model's arrays."""
        return {name: value.shape for name, value in self.model(torch.device("meta")).state_dict().items()}


@dataclass(frozen=True)
class Converted:
    """What became of a checkpoint.

    Attributes:
        layout: Layout that it was recognised by.
        state: Arrays of the model.
        dropped: Names, in the checkpoint, of what was left out.
    """

    layout: Layout
    state: dict[str, Tensor]
    dropped: list[str]


def convert(arrays: Mapping[str, Tensor], layouts: Sequence[Layout], source: str) -> Converted:
    """Finds the layout of a checkpoint and renames its arrays.

    Args:
        arrays: Arrays by the names that the checkpoint has for them.
        layouts: Those to choose from; the one that most of the names, and then of the shapes, fit is taken.
        source: Name of the checkpoint, for errors.

    Raises:
        UserError: If no layout fits at all, or one does except for some arrays; all of these are listed.
    """
    expected = [layout.expected() for layout in layouts]
    misfits = [_misfits(layout, arrays, own.keys()) for layout, own in zip(layouts, expected, strict=True)]
    # Models of several sizes have the same names.
    shapes = [_misshaped(layout, arrays, own) for layout, own in zip(layouts, expected, strict=True)]
    best = min(range(len(layouts)), key=lambda i: (misfits[i], shapes[i]))
    layout, own = layouts[best], expected[best]
    if misfits[best] > len(own) // 2:
        known = "; ".join(one.name for one in layouts)
        raise UserError(f"{source} is none of the known checkpoints ({known}); it begins with {_listed(arrays, 3)}")
    dropped = [name for name in arrays if layout.is_dropped(name)]
    origin: dict[str, str] = {}
    for name in arrays:
        if not layout.is_dropped(name):
            other = origin.setdefault(layout.renamed(name), name)
            if other != name:
                raise UserError(f"{source}: {other} and {name} are both for {layout.renamed(name)}")
    wrong, state = [], {}
    for name in own.keys() & origin.keys():
        value = arrays[origin[name]]
        state[name] = layout.reshape.get(name, _same)(value)
        if state[name].shape != own[name]:
            wrong.append(f"{origin[name]} {tuple(value.shape)}, which does not become {name} {tuple(own[name])}")
    problems = {
        "missing (by their names here)": own.keys() - origin.keys(),
        "surplus": [origin[name] for name in origin.keys() - own.keys()],
        "of another shape": wrong,
    }
    found = "; ".join(f"{what}: {_listed(names)}" for what, names in problems.items() if names)
    if found:
        raise UserError(f"{source} is not quite {layout.name}: {found}")
    return Converted(layout, {name: state[name].contiguous() for name in own}, dropped)


def _misfits(layout: Layout, arrays: Mapping[str, Tensor], own: Iterable[str]) -> int:
    """Number of names that only one of the two sides has."""
    return len({layout.renamed(name) for name in arrays if not layout.is_dropped(name)} ^ set(own))


def _misshaped(layout: Layout, arrays: Mapping[str, Tensor], own: Mapping[str, torch.Size]) -> int:
    """Number of arrays that have a place, but not its shape."""
    placed = {layout.renamed(name): value for name, value in arrays.items() if not layout.is_dropped(name)}
    reshaped = {name: layout.reshape.get(name, _same)(placed[name]) for name in own.keys() & placed.keys()}
    return sum(value.shape != own[name] for name, value in reshaped.items())


def _same(value: Tensor) -> Tensor:
    return value


def _listed(names: Iterable[str], count: int | None = None) -> str:
    return ", ".join(sorted(names)[:count])
