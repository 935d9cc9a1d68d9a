"""What timm's tools and training code ask of a model, answered by the wrapped one."""

from __future__ import annotations

from typing import Any, NoReturn, Self

from torch import nn

from eventful.errors import UnsupportedModel

ANSWERED_BY_THE_MODEL = {
    "default_cfg",
    "embed_dim",
    "feature_info",
    "forward_head",
    "get_classifier",
    "global_pool",
    "head_hidden_size",
    "num_classes",
    "num_features",
    "num_prefix_tokens",
    "pretrained_cfg",
    "reset_classifier",
}
"""Sizes, settings, and what is done to final tokens: none of it depends on how they were computed."""


class TimmInterface(nn.Module):
    """A wrapper of a timm model, held as `vit`, that answers as it does."""

    def __getattr__(self, name: str) -> Any:
        if name in ANSWERED_BY_THE_MODEL:
            return getattr(self.vit, name)
        return super().__getattr__(name)

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of this module; the wrapped model stays in evaluation mode."""
        super().train(mode)
        self.vit.eval()
        return self

    def forward_intermediates(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not offered.

        Raises:
            UnsupportedModel: Always.
        """
        raise UnsupportedModel(
            "forward_intermediates is not offered: tokens between blocks are not kept up to date from frame to frame; "
            "model.vit.forward_intermediates computes them densely"
        )
