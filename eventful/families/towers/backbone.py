"""Vision towers of `transformers`, by themselves, below a head, or as one of two towers.

The layers are taken apart by `eventful.families.towers.layouts`. What comes after them (pooling, classifiers, output
classes, the other tower) is the model's own code, run with its layers taken out and the tokens put in.

Shape suffixes: B streams, N tokens, D channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

from eventful.attention.rotary import RopeTable
from eventful.errors import StreamError, UnsupportedModel
from eventful.families.backbone import Backbone
from eventful.families.block import Block
from eventful.families.towers.asking import asked_now, asking, nothing_asked
from eventful.families.towers.layers import adapt_layer, check_layers
from eventful.families.towers.layouts import NOT_SUPPORTED, TOWERS, find_tower
from eventful.families.towers.positions import RopeOfTower, TokenOrder, pixels, positions_between
from eventful.families.towers.shell import answering, with_parts
from policies.protocol import Granularity


class TowerBackbone(Backbone):
    """A vision tower of `transformers`, and whatever its model makes of its tokens."""

    title = "transformers " + ", ".join(TOWERS)

    @staticmethod
    def takes(vit: nn.Module) -> bool:
        """Whether the model belongs to this family."""
        return find_tower(vit) is not None

    def __init__(self, vit: nn.Module) -> None:
        name = find_tower(vit)
        if name is None:
            raise UnsupportedModel(f"{type(vit).__name__} has none of the towers {self.title}")
        kind = type(vit.get_submodule(name)).__name__
        if kind in NOT_SUPPORTED:
            raise UnsupportedModel(f"{kind} {NOT_SUPPORTED[kind]}")
        self._name, self._layout = name, TOWERS[kind]
        self.vit = vit
        config = self._tower.config
        check_layers(vit, self._tower, self._layers_name, self._layout)
        self._order = TokenOrder(self._layout.prefix(config), self._layout.trailing(config))
        super().__init__(vit, config.hidden_size, self._order.prefix)

    @property
    def layers(self) -> nn.ModuleList:
        """See `Backbone.layers`."""
        return self.vit.get_submodule(self._layers_name)

    @property
    def _tower(self) -> Any:
        return self.vit.get_submodule(self._name)

    @property
    def _layers_name(self) -> str:
        return self._in_vit(self._layout.layers)

    def _in_vit(self, name: str) -> str:
        return f"{self._name}.{name}" if self._name else name

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """See `Backbone.grid`."""
        config = self._tower.config
        fixed, patch = self.image_size, _pair(config.patch_size)
        if not self._layout.any_size and size != fixed:
            raise StreamError(f"the model takes frames of {fixed[0]}x{fixed[1]}, this one is {size[0]}x{size[1]}")
        grid = (size[0] // patch[0], size[1] // patch[1])
        if 0 in grid:
            raise StreamError(f"a frame of {size[0]}x{size[1]} is smaller than a patch of {patch[0]}x{patch[1]}")
        return grid

    def blocks(self, grid: tuple[int, int]) -> Sequence[Block]:
        """See `Backbone.blocks`."""
        tower, within, rope = self._tower, self._layout.within, None
        patch = _pair(tower.config.patch_size)
        if self._layout.rope is not None:
            table = RopeOfTower(tower.get_submodule(self._layout.rope), patch)
            rope = RopeTable(table, grid, self.prefix, half=True)
        adapted = [adapt_layer(layer, within, tower.config, rope) for layer in self.layers]
        between = self._between()
        if between is None:
            return adapted
        added = positions_between(between, pixels(grid, patch), self._order, len(adapted))
        return [replace(block, after=after) for block, after in zip(adapted, [*added, None], strict=True)]

    def embed(self, frame: Tensor) -> Tensor:
        """See `Backbone.embed`."""
        tower, before = self._tower, self._layout.pre_norm
        embeddings = tower.embeddings
        tokens_BND = embeddings(frame.to(next(embeddings.parameters()).dtype))
        if before is not None:
            tokens_BND = tower.get_submodule(before)(tokens_BND)
        return self._order.ours(tokens_BND)

    def finish(self, tokens: Tensor) -> Tensor:
        """See `Backbone.finish`."""
        norm = self._layout.norm
        return tokens if norm is None else self._tower.get_submodule(norm)(tokens)

    def features(self, tokens_BND: Tensor, size: tuple[int, int]) -> Tensor:
        """See `Backbone.features`: `last_hidden_state`, with detection tokens before the patches."""
        return tokens_BND

    def head(self, features: Tensor) -> Any:
        """See `Backbone.head`: `outputs`, or what a `forward_head` returns that the model was given, as timm's have."""
        own = vars(self.vit).get("forward_head")
        return self.outputs(features) if own is None else own(features)

    def outputs(self, features: Tensor) -> Any:
        """What the model's own code makes of final tokens (B, N, D).

        Of two towers, it is what `get_image_features` returns, or all if there is text, too.
        """
        asked = asked_now()
        shell = self._without_layers(self._order.theirs(features))
        # Only its shape is looked at: the tokens are there already.
        frame = features.new_zeros(features.shape[0], 3, *_pair(self._tower.config.patch_size))
        towers = hasattr(shell, "get_image_features") and "input_ids" not in asked.arguments
        call = shell.get_image_features if towers else shell.forward
        outputs = call(pixel_values=frame, **asked.arguments)
        if asked.hidden is not None:
            seen = tuple(self._order.theirs(tokens) for tokens in asked.hidden)
            outputs = type(outputs)(**{**outputs, "hidden_states": seen})
        return outputs.to_tuple() if asked.as_tuple else outputs

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of frames, by the configuration."""
        return _pair(self._tower.config.image_size)

    def dense(self, frame: Tensor) -> Tensor:
        """The `features` of a frame (B, 3, H, W) by the tower's own code."""
        return self._order.ours(self._tower(pixel_values=frame).last_hidden_state)

    def measure(self, frame: Tensor) -> tuple[float, float, Tensor]:
        """See `Backbone.measure`."""
        with nothing_asked():
            return super().measure(frame)

    def asked(
        self, frame: Tensor | None, arguments: dict[str, Any], granularity: Granularity
    ) -> AbstractContextManager[Tensor]:
        """See `Backbone.asked`; the frame may be given as `pixel_values`."""
        return _frame_and_asked(frame, dict(arguments), granularity)

    def _between(self) -> nn.Module | None:
        """The module of positions that are added between layers."""
        name = self._layout.between
        return None if name is None else attrgetter(name)(self._tower)

    def _without_layers(self, tokens_BND: Tensor) -> Any:
        """The model with these tokens in place of everything up to the last norm."""
        layout = self._layout
        none = [layout.pre_norm, layout.norm, None if self._between() is None else layout.between]
        parts: dict[str, nn.Module] = {name: nn.Identity() for name in none if name is not None}
        parts |= {"embeddings": answering(self._tower.embeddings, tokens_BND), layout.layers: nn.ModuleList()}
        return with_parts(self.vit, {self._in_vit(name): module for name, module in parts.items()})

    def _opened(self, blocks: Sequence[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
        attention = self._layout.within.attention
        inside = [self._name, self._layers_name.rpartition(".")[0]]
        containers = [(name, self.vit.get_submodule(name)) for name in dict.fromkeys(inside) if name]
        return containers + [(f"{name}.{attention}", block.get_submodule(attention)) for name, block in blocks]

    def _held(self) -> list[nn.Module | None]:
        rope, find = self._layout.rope, attrgetter(self._layout.within.attention)
        parts: list[nn.Module | None] = [self._tower, None if rope is None else self._tower.get_submodule(rope)]
        for layer in self.layers._modules.values():
            parts += [layer, find(layer)]
        return parts


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


@contextmanager
def _frame_and_asked(frame: Tensor | None, arguments: dict[str, Any], granularity: Granularity) -> Iterator[Tensor]:
    named = arguments.pop("pixel_values", None)
    if (frame is None) == (named is None):
        raise TypeError("one frame is needed, as the first argument or as pixel_values")
    with asking(arguments, granularity):
        yield named if frame is None else frame
