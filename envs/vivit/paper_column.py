"""The compute column of the paper for views of a ViViT: `eventful.macs.paper_column`, over all steps and both parts.

Counted as the authors' counters do: the blocks of the spatial part at every step, those of the temporal part, which
sees a class token and one token of each step, and the classifier. Their published figures are those of 12 views.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from envs.vivit.model import PATCH, TUBELET, ViViT
from eventful.macs.paper_column import Architecture, Selected, flush_macs, steady_macs


def architectures(vivit: ViViT) -> tuple[Architecture, Architecture]:
    """The sizes of the spatial and of the temporal part that the accounting depends on."""
    spatial, temporal = vivit.spatial, vivit.temporal
    dim, heads = spatial.embed_dim, vivit.heads
    side, steps = vivit.size // PATCH, vivit.frames // TUBELET
    return (
        Architecture((side, side), dim, heads, len(spatial.blocks), prefix=1),
        Architecture((1, steps), dim, heads, len(temporal.blocks), prefix=1),
    )


def view_macs(vivit: ViViT, selected: Sequence[Sequence[Selected]] | None = None) -> Counter[str]:
    """One view, by operation.

    Args:
        vivit: The model.
        selected: Numbers of tokens that the gates of each block selected, for each step after the first; None for the
            dense model.

    Raises:
        ValueError: If there are not as many entries as steps and blocks.
    """
    spatial, temporal = architectures(vivit)
    later = vivit.frames // TUBELET - 1
    if selected is not None and len(selected) != later:
        raise ValueError(f"there are {later} steps after the first, got selections for {len(selected)}")
    counts = flush_macs(spatial) + flush_macs(temporal)
    for step in range(later):
        counts += flush_macs(spatial) if selected is None else steady_macs(spatial, selected[step])
    linear = vivit.temporal.classifier
    return counts + Counter(linear=linear.in_features * linear.out_features, bias=linear.out_features)


def top_r_macs(vivit: ViViT, r: int) -> Counter[str]:
    """One view of which every gate selects r tokens at every step after the first, by operation."""
    block = Selected(r, r, r)
    return view_macs(vivit, [[block] * len(vivit.spatial.blocks)] * (vivit.frames // TUBELET - 1))
