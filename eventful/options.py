"""The ways to run an eventful model."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

import torch

from eventful.attention.buffers import PaperTypes
from policies.protocol import Granularity

AttentionMode = Literal["exact", "paper", "recompute"]
Reference = Literal["updated", "previous"]
GatePosition = Literal["after_norm", "before_norm"]
Resize = Literal["error", "flush"]
Prefix = Literal["pinned", "ordinary"]


@dataclass(frozen=True)
class Options:
    """The ways to run an eventful model; see `eventful.wrap`.

    Raises:
        ValueError: If an option has a value that does not exist; the message names those that do.
    """

    granularity: Granularity = "gate"
    attention: AttentionMode = "exact"
    reference: Reference = "updated"
    gate_position: GatePosition = "after_norm"
    buffer_dtype: torch.dtype | None = None
    on_resize: Resize = "error"
    scene_cut: float | None = None
    compile: str | None = None
    motion_compensation: bool = False
    prefix: Prefix = "pinned"
    product_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        kinds = {
            "granularity": Granularity,
            "attention": AttentionMode,
            "reference": Reference,
            "gate_position": GatePosition,
            "on_resize": Resize,
            "prefix": Prefix,
        }
        for name, kind in kinds.items():
            value = getattr(self, name)
            if value not in get_args(kind):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {value!r}")
        backends = torch.compiler.list_backends(exclude_tags=())
        if self.compile is not None and self.compile not in backends:
            raise ValueError(f"compile must be a backend of torch.compile, one of {backends}, got {self.compile!r}")
        if self.scene_cut is not None and not self.scene_cut > 0:
            raise ValueError(f"scene_cut must be a positive share of change, or None, got {self.scene_cut}")
        if self.motion_compensation and self.granularity != "frame":
            raise ValueError('motion_compensation moves what one decision per frame leaves stale: granularity="frame"')
        if self.prefix == "ordinary" and self.granularity == "frame":
            raise ValueError(
                'prefix="ordinary" needs granularity="gate": with one decision per frame a class token looks as if it '
                "never changed, and would never be updated"
            )
        for name, what in (("buffer_dtype", "the N x N buffers"), ("product_dtype", "products of stored weights")):
            value = getattr(self, name)
            if value not in (None, torch.float32, torch.bfloat16, torch.float16):
                raise ValueError(f"{name} must be float32, bfloat16 or float16, got {value}")
            if value is not None and self.attention != "paper":
                raise ValueError(f'{name} is the type of {what}, which only attention="paper" has')

    @property
    def paper_types(self) -> PaperTypes:
        """The types of `attention="paper"`."""
        return PaperTypes(self.buffer_dtype, self.product_dtype)


OPTION_NAMES = frozenset(option.name for option in fields(Options))
