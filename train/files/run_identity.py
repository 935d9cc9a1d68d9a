"""What a run is made from: its settings, and what the files behind them held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from envs.task import Clip, Frames
from eventful.errors import UserError
from policies import TrainablePolicy
from policies.content_hash import content_hash
from train.files.saved_state import differing, refuse_other_settings


@dataclass(frozen=True)
class RunIdentity:
    """What must not change between a checkpoint and its resumption.

    Attributes:
        settings: Settings by name, as texts.
        contents: Hashes of what was read, by what it is; empty where nobody looked.
    """

    settings: Mapping[str, str]
    contents: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, dict[str, str]]:
        """Plain data for a checkpoint."""
        return {"run": dict(self.settings), "contents": dict(self.contents)}

    def refuse_other(self, saved: Mapping[str, Any], path: Path) -> None:
        """Compares with what a checkpoint holds.

        Args:
            saved: What `to_dict` gave; without `contents` if it was written before there were any.
            path: Path of the checkpoint, for the message.

        Raises:
            UserError: If it belongs to another run, saying what differs.
        """
        refuse_other_settings(self.settings, saved["run"], path)
        known = saved.get("contents", {})
        other = differing(*({k: v for k, v in some.items() if k in known} for some in (self.contents, known)))
        if self.contents and other:
            raise UserError(
                f"{path} was trained with other contents of: {', '.join(other)}; bring back what was there, "
                "choose another out folder, or delete it to start anew"
            )


def contents_of(
    model: Mapping[str, Any], clips: Mapping[str, Sequence[Clip]], policy: TrainablePolicy
) -> dict[str, str]:
    """Hashes of what a training reads.

    Args:
        model: State of the dense model.
        clips: Clips by the name of their split.
        policy: Policy from which training starts.
    """
    start = [policy.state_dict(), float(policy.saliency_exponent), float(policy.saliency_floor)]
    footage = {split: [[clip.name, _looked_at(clip.frames_THWC)] for clip in some] for split, some in clips.items()}
    return {
        "the model's weights": content_hash(dict(model)),
        **{f"the footage of split {split}": content_hash(frames) for split, frames in footage.items()},
        "the policy that it started from (heuristic)": content_hash(start),
    }


def _looked_at(frames: Frames) -> Any:
    """The frames; of those that are decoded as they are asked for, three: all would take longer than the training."""
    if isinstance(frames, Tensor):
        return frames
    T = frames.shape[0]
    return [list(frames.shape), *(frames[t] for t in (0, T // 2, T - 1))]
