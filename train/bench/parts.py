"""The operations of a frame by the part of the work that they do."""

from __future__ import annotations

import re
from collections.abc import Mapping

from train.bench.op_profile import FrameProfile

PARTS: Mapping[str, str] = {
    "attention": r"scaled_dot_product|softmax|logsumexp|bmm",
    "linear layers": r"mm$|linear",
    "patch embedding": r"conv",
    "rows read and written": r"index|gather|scatter|where|masked",
    "what is selected": r"topk|sort|nonzero|argm|cumsum|bincount",
    "views": r"view|expand|transpose|permute|slice|select|squeeze|unbind|split|strided|detach|alias|^t$",
    "layer norms, activations, sums": r"layer_norm|gelu|silu|relu|sigmoid|add|mul|div|exp|log|sum|mean|max|min",
    "error norms": r"norm|sub",
    "copies": r"copy|clone|cat|stack|fill|zeros|ones|full|empty|arange|repeat",
}
"""Parts, and what the names of their operations contain; the first that matches counts."""

OTHER, OUTSIDE = "other operations", "outside of operations"


def part_of(operation: str) -> str:
    """The part that an operation belongs to, by its name in ATen."""
    return next((part for part, names in PARTS.items() if re.search(names, operation)), OTHER)


def by_part(profile: FrameProfile) -> dict[str, float]:
    """Seconds of a frame by part, in the order of `PARTS`, with what is none and the time between operations."""
    seconds = dict.fromkeys([*PARTS, OTHER], 0.0)
    for op in profile.ops:
        seconds[part_of(op.name)] += op.seconds
    return seconds | {OUTSIDE: profile.seconds - sum(op.seconds for op in profile.ops)}
