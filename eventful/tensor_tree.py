"""Trees of tensors: dataclasses, lists, tuples and tables that hold them, such as the state of streams."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def map_tensors(node: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same tree of dataclasses, lists, tuples and tables, with a function applied to every tensor."""
    return map_named(node, lambda tensor, _: function(tensor))


def map_named(node: Any, function: Callable[[Tensor, str], Tensor], path: str = "") -> Any:
    """`map_tensors` with a function that is told the place of each tensor."""
    if isinstance(node, Tensor):
        return function(node, path)
    inner = f"{path}." if path else ""
    if isinstance(node, list):
        return [map_named(item, function, f"{inner}{i}") for i, item in enumerate(node)]
    if isinstance(node, tuple):
        return _tuple_like(node, [map_named(item, function, f"{inner}{i}") for i, item in enumerate(node)])
    if isinstance(node, Mapping):
        return {key: map_named(item, function, f"{inner}{key}") for key, item in node.items()}
    names = _field_names(type(node))
    return type(node)(**{n: map_named(getattr(node, n), function, f"{inner}{n}") for n in names}) if names else node


def _tuple_like(node: tuple[Any, ...], items: Sequence[Any]) -> tuple[Any, ...]:
    """A tuple of the same kind, with names or without."""
    return type(node)(*items) if hasattr(node, "_fields") else tuple(items)


_FIELDS: dict[type, tuple[str, ...]] = {}


def _field_names(kind: type) -> tuple[str, ...]:
    """Names of the fields of a dataclass, none for other types; looked up once, as states are mapped in every frame."""
    if kind not in _FIELDS:
        _FIELDS[kind] = tuple(f.name for f in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else ()
    return _FIELDS[kind]


def stream_of(node: Any, stream: int) -> Any:
    """One stream of a tree, as views: edits in place reach the whole. The stream dimension stays."""
    return map_tensors(node, lambda tensor: tensor[stream : stream + 1])


def bytes_of(node: Any) -> int:
    """Bytes held by all tensors of a tree."""
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    map_tensors(node, note)
    return sum(sizes)


def cat_tensors(nodes: Sequence[Any]) -> Any:
    """Trees of one shape as one, their tensors joined along the streams; of what is no tensor, the first one's.

    Raises:
        ValueError: If the trees differ in shape.
    """
    first = nodes[0]
    if any(type(node) is not type(first) for node in nodes):
        raise ValueError("states of different modes cannot be joined; make all of them by the same kind of run")
    if isinstance(first, Tensor):
        return torch.cat(list(nodes))
    if isinstance(first, list):
        return [cat_tensors(items) for items in zip(*nodes, strict=True)]
    if isinstance(first, tuple):
        return _tuple_like(first, [cat_tensors(items) for items in zip(*nodes, strict=True)])
    if isinstance(first, Mapping):
        if any(node.keys() != first.keys() for node in nodes):
            raise ValueError("states of different modes cannot be joined; make all of them by the same kind of run")
        return {key: cat_tensors([node[key] for node in nodes]) for key in first}
    names = _field_names(type(first))
    if names:
        if "shared" in names:
            # What only some of them have shared can be computed again.
            known = set.intersection(*(set(node.shared) for node in nodes))
            nodes = [dataclasses.replace(node, shared={name: node.shared[name] for name in known}) for node in nodes]
        return type(first)(**{n: cat_tensors([getattr(node, n) for node in nodes]) for n in names})
    return first
