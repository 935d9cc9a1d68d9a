"""What comes after the spatial part of a ViViT, as far as one step at a time can be asked for it.

The head hands on the class token of a step, as the temporal part takes it, and has that part beside it. What the
consumer would say is asked of the steps seen so far, the last one repeated until the view is full: the rule for videos
that are too short (`envs.vivit.views.frame_indices`), after the spatial part instead of before it. For a single step it
is what the classifier would say if the whole view were like this step.

Shape suffixes: B streams, s steps seen so far, S steps of a view, D channels, K classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from envs.vivit.model import TemporalClassifier


class StepHead(nn.Module):
    """The class token of a step; the temporal part and the classifier beside it.

    Args:
        temporal: They.
    """

    def __init__(self, temporal: TemporalClassifier) -> None:
        super().__init__()
        self.temporal = temporal

    def forward(self, token_BD: Tensor) -> Tensor:
        """Class tokens as they are."""
        return token_BD

    def logits(self, tokens_BsD: Tensor) -> Tensor:
        """Logits of the classes (B, K) after some steps, of which the last one stands for those to come.

        Raises:
            ValueError: If there is no step, or more than a view has.
        """
        seen, steps = tokens_BsD.shape[1], self.temporal.steps
        if not 0 < seen <= steps:
            raise ValueError(f"a view has 1 to {steps} steps, got {seen}")
        index = [min(step, seen - 1) for step in range(steps)]
        logits: Tensor = self.temporal(tokens_BsD[:, index])
        return logits
