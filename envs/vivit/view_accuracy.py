"""Top-1 of whole views: what the classifier says after all steps, each as a policy has left it.

Shape suffixes: B streams, S steps, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from envs.task import Target
from envs.vivit.step_head import StepHead
from eventful.errors import UserError


class ViewAccuracy:
    """Share of the clips, each of them a view, whose class is the most probable one; implements `envs.task.Metric`.

    Args:
        head: The temporal part and the classifier.
    """

    whole_clips = True

    def __init__(self, head: StepHead) -> None:
        self._head = head
        self._tokens: dict[str, list[Tensor]] = {}
        self._labels: dict[str, int] = {}
        self._right: dict[str, bool] = {}

    def update(self, clip: str, outputs: Tensor, targets: Sequence[Target]) -> None:
        """Adds class tokens of a clip's next steps (B, D)."""
        self._tokens.setdefault(clip, []).extend(outputs.unbind(0))
        self._labels[clip] = int(targets[0]["label"])
        self._right.pop(clip, None)

    @torch.no_grad()
    def compute(self, clips: Sequence[str] | None = None) -> float:
        """Top-1 over the named clips, with repetition, or over all; NaN without clips.

        Raises:
            UserError: If there are clips of which not all steps were seen.
        """
        names = list(self._tokens if clips is None else clips)
        missing = [name for name in self._tokens if name not in self._right]
        if missing:
            self._judge(missing)
        return sum(self._right[name] for name in names) / len(names) if names else float("nan")

    def _judge(self, clips: Sequence[str]) -> None:
        steps = self._head.temporal.steps
        for name in clips:
            seen = len(self._tokens[name])
            if seen != steps:
                raise UserError(f"clip {name}: top-1 is of whole views of {steps} steps, and {seen} were shown")
            logits_1K = self._head.logits(torch.stack(self._tokens[name])[None])
            self._right[name] = int(logits_1K.argmax()) == self._labels[name]
