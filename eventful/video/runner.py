"""Frames of a video through an eventful model, one at a time, with everything worth knowing about each.

Shape suffixes: B one stream, N tokens, D channels, C channels of a frame, H height, W width; rate_RC: R rows and C
columns of the token grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eventful.cli import user_input
from eventful.fidelity import token_distance
from eventful.linear.onednn import by_onednn
from eventful.model import EventfulModel
from eventful.state import StreamState
from eventful.tasks import Task, model_input
from eventful.video.frames import Frame, Tubelet
from policies.protocol import Budget, GateObservation, Layout, Selection


@dataclass(frozen=True)
class DenseCheck:
    """Comparison of one frame with the dense model.

    Attributes:
        distance: Mean over the tokens of 1 - cosine to the dense model's final tokens.
        worst: Mean of 1 - cosine over the 20 worst tokens.
        seconds: Time of the dense model, in seconds.
    """

    distance: float
    worst: float
    seconds: float


@dataclass(frozen=True, eq=False)
class FrameResult:
    """One frame's outcome.

    Attributes:
        index: Frame number, from 0.
        time: When the frame is shown, in seconds since the first one; None if that was not said.
        frame: The frame itself, uint8 RGB (H, W, 3), or the picture that the task shows of it.
        outputs: Output of the model.
        predictions: Predictions in the output, as plain data.
        macs: Multiply-accumulates of the frame.
        macs_ratio: Share of the dense model's multiply-accumulates.
        budget: Asked share of the dense MACs; None where the policy has no budget.
        flush: Whether everything was computed without asking the policy.
        updated: Share of the tokens that were updated, mean over the gates.
        rate_RC: Share of the gates that updated each cell of the token grid.
        seconds: Time of the model, in seconds.
        dense: Comparison with the dense model, on the frames where it was asked for.
        waited: Time until the frame was there, in seconds; 0 if nobody measured it.
    """

    index: int
    time: float | None
    frame: Frame
    outputs: Any
    predictions: list[dict[str, Any]]
    macs: float
    macs_ratio: float
    budget: float | None
    flush: bool
    updated: float
    rate_RC: NDArray[np.float32]
    seconds: float
    dense: DenseCheck | None
    waited: float = 0.0


class VideoRunner:
    """Takes one video's frames in order. Holds the model's state of the stream, and no frame.

    Args:
        model: Wrapped model of the task; the device and dtype of its weights are used.
        task: Task that preprocesses frames and interprets outputs; what it offers besides for videos
            (`envs.task.VideoParts`) is used.
        dense_every: Number of frames from one run of the dense model to the next; 0 for none.

    Attributes:
        tubelet: What a frame of the model is made of; None for a frame of the video.
    """

    def __init__(self, model: EventfulModel, task: Task, dense_every: int = 0) -> None:
        self.model, self.task, self._dense_every = model, task, dense_every
        self.tubelet: Tubelet | None = getattr(task, "tubelet", None)
        self._picture, watch = getattr(task, "picture", None), getattr(task, "watch", None)
        self._predictions = task.predictions if watch is None else watch()
        self._state: StreamState | None = None
        self._index = 0

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return next(self.model.vit.parameters()).device

    def flush(self) -> None:
        """Has everything computed in the next frame, which has nothing to do with the one before."""
        if self._state is not None:
            self._state.flush_B = torch.ones_like(self._state.flush_B)

    @torch.inference_mode()
    def step(self, frame: Frame, time: float | None = None) -> FrameResult:
        """Runs the next frame.

        Args:
            frame: uint8 RGB (H, W, 3).
            time: When it is shown, in seconds since the first one.

        Raises:
            UserError: If the policy does not fit the model, or its budget is out of range.
            StreamError: If the preprocessed frame does not fit the stream.
        """
        # Mirrored views and the like have strides that tensors cannot have.
        pixels = torch.from_numpy(np.ascontiguousarray(frame))[None]
        x_BCHW = model_input(self.task.preprocess, self.model.vit, pixels)
        started = self._now()
        features, outputs, state = self.model.step_with_features(x_BCHW, self._state, self._select)
        self._state = state
        seconds = self._now() - started
        due = self._dense_every > 0 and self._index % self._dense_every == 0
        check = self._compare(x_BCHW, features) if due else None
        result = self._result(frame, time, self.model.layout(x_BCHW), outputs, state, seconds, check)
        self._index += 1
        return result

    def _result(
        self,
        frame: Frame,
        time: float | None,
        layout: Layout,
        outputs: Any,
        state: StreamState,
        seconds: float,
        check: DenseCheck | None,
    ) -> FrameResult:
        macs, flushed_B = state.macs, state.flushed_B
        if macs is None or flushed_B is None:
            raise RuntimeError("the model has reported nothing about this frame")
        rate_N = state.updated()[0].float().mean(0).cpu().numpy()
        return FrameResult(
            index=self._index,
            time=time,
            frame=frame if self._picture is None else self._picture(frame),
            outputs=outputs,
            predictions=self._predictions(outputs, (frame.shape[0], frame.shape[1]))[0],
            macs=float(macs.total[0]),
            macs_ratio=float(macs.share[0]),
            budget=_of_first_stream(self.model.policy.budget),
            flush=bool(flushed_B[0]),
            updated=float(rate_N.mean()),
            rate_RC=rate_N[layout.prefix :].reshape(layout.grid),
            seconds=seconds,
            dense=check,
        )

    def _compare(self, x_BCHW: Tensor, features: Tensor) -> DenseCheck:
        """Runs the dense model on the same frame."""
        vit: Any = self.model.vit
        started = self._now()
        dense = by_onednn(vit.forward_features)(x_BCHW)
        self.model.backbone.head(dense)
        seconds = self._now() - started
        mean_B, worst_B = token_distance(features, dense)
        return DenseCheck(float(mean_B[0]), float(worst_B[0]), seconds)

    def _select(self, observation: GateObservation) -> Selection:
        """Asks the policy, whose complaint about the model or the budget becomes a `UserError`."""
        with user_input("policy"):
            return self.model.policy.select(observation)

    def _now(self) -> float:
        """A clock that waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return perf_counter()


def _of_first_stream(budget: Budget | None) -> float | None:
    return float(budget.reshape(-1)[0]) if isinstance(budget, Tensor) else budget
