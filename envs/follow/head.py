"""The consumer: how similar each token is to what was in a box of one frame.

With x the unit vector of a token's features and m the mean of those of the frame's tokens outside of the box, what a
token shows beyond the background is

    z = (x - m) / |x - m|

The prototype p is the mean of the box's z, each weighed by the part of its cell that lies in the box, as a unit vector.
Of any token in any frame the head then says

    logit = (z . p - threshold) / temperature

and the sigmoid of that is the probability that the token shows the like.

Shape suffixes: B streams, N patch tokens, X all tokens (class and registers first), D channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from eventful.errors import UserError


class SimilarityHead(nn.Module):
    """Final tokens (B, X, D) to logits (B, N); see the module.

    Args:
        background_D: Mean m of the background's unit vectors.
        prototype_D: Unit vector p.
        prefix: Number of class and register tokens.
        threshold: Cosine at which the probability is 1/2.
        temperature: Cosine from there to a probability of 73 %.
    """

    background_D: Tensor
    prototype_D: Tensor

    def __init__(
        self, background_D: Tensor, prototype_D: Tensor, prefix: int, threshold: float, temperature: float
    ) -> None:
        super().__init__()
        # Buffers, so that they are part of the weights: another box is another consumer.
        self.register_buffer("background_D", background_D)
        self.register_buffer("prototype_D", prototype_D)
        self.prefix, self.threshold, self.temperature = prefix, threshold, temperature

    @classmethod
    def of_box(cls, tokens_XD: Tensor, inside_N: Tensor, threshold: float, temperature: float) -> SimilarityHead:
        """The head for what a box of one frame shows.

        Args:
            tokens_XD: The frame's final tokens.
            inside_N: Part of each patch token's cell that lies in the box, 0 to 1; 0 for one token at least.
            threshold: Cosine at which the probability is 1/2.
            temperature: Cosine from there to a probability of 73 %.

        Raises:
            UserError: If no token of the box reaches the threshold: to the model it looks like the background.
        """
        prefix = len(tokens_XD) - len(inside_N)
        x_ND = F.normalize(tokens_XD[prefix:].float(), dim=-1)
        background_D = x_ND[inside_N == 0].mean(0)
        z_ND = F.normalize(x_ND - background_D, dim=-1)
        prototype_D = F.normalize((inside_N[:, None] * z_ND).sum(0), dim=-1)
        best = float((z_ND @ prototype_D)[inside_N > 0].max())
        if best < threshold:
            raise UserError(
                f"no token in the box is as similar to its mean as threshold={threshold:g} asks (the best has "
                f"{best:.2f}): give a box around one thing that stands out, or a lower threshold"
            )
        return cls(background_D, prototype_D, prefix, threshold, temperature)

    def forward(self, tokens_BXD: Tensor) -> Tensor:
        """Final tokens (B, X, D) to logits (B, N)."""
        x_BND = F.normalize(tokens_BXD[:, self.prefix :], dim=-1)
        z_BND = F.normalize(x_BND - self.background_D, dim=-1)
        return (z_BND @ self.prototype_D - self.threshold) / self.temperature
