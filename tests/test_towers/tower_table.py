"""The part of the documentation that says which models of `transformers` are supported, made by wrapping them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from family_zoo import clip
from torch import Tensor
from tower_zoo import REFUSED, SIZE, TOWERS, TWO_TOWERS, build_tower

import eventful
import policies
from eventful.families import adapt


def tower_lines() -> list[str]:
    """A table of what is supported, and one of what is not."""
    lines = [
        "",
        "## Of transformers",
        "",
        "With the extra `hf`; held against the original's `last_hidden_state`, pooled output, logits and boxes.",
        "",
        "| Kind | Classes and options | gate: exact / paper / recompute | frame |",
        "|---|---|---|---|",
    ]
    frame = clip(1, size=SIZE)[0]
    for name, (_, note) in (TOWERS | TWO_TOWERS).items():
        works = []
        for options in ({}, {"attention": "paper"}, {"attention": "recompute"}, {"granularity": "frame"}):
            works.append("yes" if _as_the_original(name, frame, options) else "no")
        lines.append(f"| {name} | {note} | {' / '.join(works[:3])} | {works[3]} |")
    lines += [
        "",
        "What is returned is the model's own output class. Known by name are `pixel_values`, `return_dict`, `labels`,",
        '`output_hidden_states=True` (granularity "gate"), and of two towers `input_ids` and what belongs to the text.',
        "Anything else, such as `output_attentions` or `interpolate_pos_encoding`, is refused by name.",
        "",
        "Not supported:",
        "",
        "| What | Message |",
        "|---|---|",
    ]
    for what, (make, _) in REFUSED.items():
        with pytest.raises(eventful.UnsupportedModel) as caught:
            adapt(make())
        lines.append(f"| {what} | {caught.value} |")
    return lines


def _as_the_original(name: str, frame: Tensor, options: Mapping[str, str]) -> bool:
    vit = build_tower(name)
    dense = getattr(vit, "get_image_features", vit)
    with torch.inference_mode():
        ours, theirs = eventful.wrap(vit, policies.All(), **options)(frame), dense(frame)  # type: ignore[arg-type]
    tensors = {key: value for key, value in theirs.items() if isinstance(value, Tensor)}
    return all(torch.allclose(ours[key], value, atol=1e-4, rtol=1e-4) for key, value in tensors.items())
