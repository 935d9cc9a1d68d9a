"""What timm's and transformers' tools and training code ask of a model, answered by the wrapped one."""

from __future__ import annotations

from typing import Any, NoReturn, Self

from torch import Tensor, nn

from eventful.errors import UnsupportedModel

ANSWERED_BY_THE_MODEL = {
    "config",
    "default_cfg",
    "device",
    "dtype",
    "embed_dim",
    "feature_info",
    "forward_head",
    "get_classifier",
    "get_text_features",
    "global_pool",
    "head_hidden_size",
    "main_input_name",
    "num_classes",
    "num_features",
    "num_prefix_tokens",
    "pretrained_cfg",
    "reset_classifier",
}
"""Sizes, settings, and what is done to final tokens: none of it depends on how they were computed."""


class TimmInterface(nn.Module):
    """A wrapper of a model, held as `vit`, that answers as it does."""

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

    def get_image_features(self, pixel_values: Tensor | None = None, **asked: Any) -> Any:
        """What a model of two towers returns for a frame (B, 3, H, W) alone; a step of the stream, as a call is.

        Raises:
            AttributeError: If the wrapped model has no such method.
        """
        if not hasattr(self.vit, "get_image_features"):
            raise AttributeError(f"{type(self.vit).__name__} has no get_image_features")
        return self(pixel_values, **asked)
