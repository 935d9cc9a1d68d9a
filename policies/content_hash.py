"""What something holds as one number: changes with any value, name, shape or type in it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def content_hash(node: Any) -> str:
    """SHA-256 of a tree of tables, lists, tensors and plain values, as hex digits.

    Tuples count as lists, and the order of a table's entries does not count.

    Args:
        node: Root of the tree; tensors may be on any device.

    Raises:
        TypeError: If there is anything else in it.
    """
    found = hashlib.sha256()
    _add(node, found)
    return found.hexdigest()


def _add(node: Any, found: Any) -> None:
    if isinstance(node, Tensor):
        found.update(f"{node.dtype}{tuple(node.shape)}:".encode())
        found.update(node.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(node, Mapping):
        found.update(f"table {len(node)}:".encode())
        for key in sorted(node, key=repr):
            _add(key, found)
            _add(node[key], found)
    elif isinstance(node, list | tuple):
        found.update(f"list {len(node)}:".encode())
        for item in node:
            _add(item, found)
    elif node is None or isinstance(node, bool | int | float | str):
        text = repr(node)
        found.update(f"{type(node).__name__} {len(text)}:{text}".encode())
    else:
        raise TypeError(f"there is no hash of a {type(node).__name__}")
