"""`timm.models.NaFlexVit` on frames: all patches of a grid that is the same from frame to frame.

Dehghani et al., "Patch n' Pack: NaViT" (2023); Beyer et al., "FlexiViT" (2023). Packed patches of other shapes are no
frames; rotary embeddings are not supported.
"""

from __future__ import annotations

from typing import Any

from timm.models.naflexvit import NaFlexVit
from torch import Tensor

from eventful.errors import StreamError, UnsupportedModel
from eventful.families.vit import ViTBackbone


class NaFlexBackbone(ViTBackbone):
    """A vision transformer with pre-norm blocks and global attention, on a grid of any size."""

    title = "timm NaFlexVit"
    kind = NaFlexVit

    def __init__(self, vit: Any) -> None:
        if getattr(vit, "rope", None) is not None:
            raise UnsupportedModel("rope: rotary embeddings of a NaFlexVit are not supported")
        super().__init__(vit)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """See `Backbone.grid`."""
        embeds = self.vit.embeds
        rows, columns = embeds.patch_size
        if not embeds.dynamic_img_pad and (size[0] % rows or size[1] % columns):
            raise StreamError(f"frames must be multiples of the patch size {rows}x{columns}, got {size[0]}x{size[1]}")
        return -(-size[0] // rows), -(-size[1] // columns)

    def embed(self, frame: Tensor) -> Tensor:
        """See `Backbone.embed`."""
        return self.vit._forward_embeds(frame, None, None, None)["patches"]
