"""`timm.models.NaFlexVit` on frames: all patches of a grid that is the same from frame to frame.

Dehghani et al., "Patch n' Pack: NaViT" (2023); Beyer et al., "FlexiViT" (2023). Packed patches of other shapes are no
frames; rotary embeddings are not supported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models.naflexvit import NaFlexVit
from torch import Tensor, nn

from eventful.errors import StreamError, UnsupportedModel
from eventful.families.backbone import Backbone
from eventful.families.block import Block
from eventful.families.checks import check_forward, check_patch_drop
from eventful.families.vit import adapt_block


class NaFlexBackbone(Backbone):
    """A vision transformer with pre-norm blocks and global attention, on a grid of any size."""

    title = "timm NaFlexVit"

    @staticmethod
    def takes(vit: nn.Module) -> bool:
        """Whether the model belongs to this family."""
        return isinstance(vit, NaFlexVit)

    def __init__(self, vit: nn.Module) -> None:
        if not isinstance(vit, NaFlexVit):
            raise UnsupportedModel(f"{type(vit).__name__} is not a {self.title}")
        check_forward(vit, NaFlexVit)
        check_patch_drop(vit.patch_drop)
        if vit.rope is not None:
            raise UnsupportedModel("rope: rotary embeddings of a NaFlexVit are not supported")
        self._blocks = [adapt_block(block, f"blocks.{i}") for i, block in enumerate(vit.blocks)]
        super().__init__(vit, vit.embed_dim, vit.num_prefix_tokens)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """See `Backbone.grid`."""
        embeds = self.vit.embeds
        rows, columns = embeds.patch_size
        if not embeds.dynamic_img_pad and (size[0] % rows or size[1] % columns):
            raise StreamError(f"frames must be multiples of the patch size {rows}x{columns}, got {size[0]}x{size[1]}")
        return -(-size[0] // rows), -(-size[1] // columns)

    def blocks(self, grid: tuple[int, int]) -> Sequence[Block]:
        """See `Backbone.blocks`; they are the same for all grids."""
        return self._blocks

    def embed(self, frame: Tensor) -> Tensor:
        """See `Backbone.embed`."""
        return self.vit._forward_embeds(frame, None, None, None)["patches"]

    def finish(self, tokens: Tensor) -> Tensor:
        """See `Backbone.finish`."""
        return self.vit.norm(tokens)

    def features(self, tokens_BND: Tensor, size: tuple[int, int]) -> Tensor:
        """See `Backbone.features`."""
        return tokens_BND

    def head(self, features: Tensor) -> Any:
        """See `Backbone.head`."""
        return self.vit.forward_head(features)
