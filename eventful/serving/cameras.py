"""Frames of many cameras through one model: whoever waits longest comes first, and nobody waits for anybody's rate.

Every camera has a state and a short queue of its own. When frames come faster than the model works, the oldest frame of
a full queue is dropped, so that what is served is recent; every frame is either served or counted as dropped.

Shape suffixes: B cameras of a batch, H height, W width, C channels of a frame.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from eventful.model import EventfulModel
from eventful.state import StreamState
from eventful.tasks import model_input
from eventful.tensor_tree import stream_of
from eventful.video.frames import Frame


@dataclass
class Counts:
    """What has become of frames.

    Attributes:
        received: Frames that were handed in.
        served: Frames of which there is a result.
        dropped: Frames that a newer one of the same camera has replaced, or whose camera left first.
    """

    received: int = 0
    served: int = 0
    dropped: int = 0


@dataclass(frozen=True, eq=False)
class Served:
    """One frame's outcome.

    Attributes:
        camera: Name of the camera.
        index: Number of the frame among those that the camera handed in, from 0: gaps are frames that were dropped.
        outputs: What the model returns for this frame alone (a batch of one).
        macs_ratio: Share of the dense model's multiply-accumulates.
        flush: Whether everything was computed without asking the policy.
        waited: Seconds from handing in to the start of the work.
        latency: Seconds from handing in to the result.
    """

    camera: Hashable
    index: int
    outputs: Any
    macs_ratio: float
    flush: bool
    waited: float
    latency: float


class _Waiting(NamedTuple):
    frame: Frame
    number: int
    since: float


@dataclass(eq=False)
class _Camera:
    name: Hashable
    waiting: deque[_Waiting] = field(default_factory=deque)
    received: int = 0
    state: StreamState | None = None


class CameraServer:
    """Serves the frames of cameras. Frames are handed in from any thread; one thread serves.

    Args:
        model: Wrapped model; its policy is asked for all cameras, its own hidden state is not used.
        preprocess: uint8 RGB frames (B, H, W, 3) on the model's device to model input (B, 3, H', W').
        depth: Frames of a camera that may wait: 1 for the newest only.
        batch: Largest number of cameras in one forward pass. On CPUs one is best: joining states copies them. On GPUs
            more fill the device.

    Raises:
        ValueError: If depth or batch is below 1.
    """

    def __init__(
        self, model: EventfulModel, preprocess: Callable[[Tensor], Tensor], depth: int = 1, batch: int = 1
    ) -> None:
        if depth < 1 or batch < 1:
            raise ValueError(f"depth and batch must be at least 1, got {depth} and {batch}")
        self._model, self._preprocess, self._depth, self._batch = model, preprocess, depth, batch
        self._cameras: dict[Hashable, _Camera] = {}
        self._counts = Counts()
        self._changed = threading.Condition()

    @property
    def counts(self) -> Counts:
        """Frames of all cameras so far, those that have left included; a copy."""
        with self._changed:
            return Counts(**vars(self._counts))

    @property
    def cameras(self) -> list[Hashable]:
        """Cameras that have handed in a frame and not left."""
        with self._changed:
            return list(self._cameras)

    @property
    def waiting(self) -> int:
        """Frames that wait."""
        with self._changed:
            return sum(len(camera.waiting) for camera in self._cameras.values())

    def hand_in(self, camera: Hashable, frame: Frame) -> None:
        """Hands in a camera's next frame; never waits. A camera that is not known joins, and begins with a flush.

        Args:
            camera: Name of the camera.
            frame: uint8 RGB (H, W, 3).

        Raises:
            ValueError: If the frame is of another type or shape.
        """
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"camera {camera}: a frame must be uint8 (H, W, 3), got {frame.dtype} {frame.shape}")
        with self._changed:
            known = self._cameras.setdefault(camera, _Camera(camera))
            known.waiting.append(_Waiting(frame, known.received, perf_counter()))
            known.received += 1
            self._counts.received += 1
            if len(known.waiting) > self._depth:
                known.waiting.popleft()
                self._counts.dropped += 1
            self._changed.notify_all()

    def leave(self, camera: Hashable) -> None:
        """Forgets a camera, its state and the frames that wait. If it comes back it begins with a flush.

        Raises:
            KeyError: If the camera is not known.
        """
        with self._changed:
            self._counts.dropped += len(self._cameras.pop(camera).waiting)

    @torch.inference_mode()
    def serve(self, timeout: float | None = None) -> list[Served]:
        """Serves the frame that has waited longest, and those of other cameras that fit into its batch.

        Args:
            timeout: Seconds to wait for a frame; None for ever.

        Returns:
            A result for each camera of the batch; nothing if no frame came in time.

        Raises:
            StreamError: If a frame does not fit its camera's frames before; this camera's next frame is a flush.
        """
        with self._changed:
            if not self._changed.wait_for(self._ready, timeout):
                return []
            chosen = self._choose()
            taken = [camera.waiting.popleft() for camera in chosen]
            states = [camera.state for camera in chosen]
            # Whatever breaks off must leave no half-edited state behind.
            for camera in chosen:
                camera.state = None
        started = perf_counter()
        try:
            outputs, after = self._step(np.stack([waiting.frame for waiting in taken]), states)
        except BaseException:
            with self._changed:
                self._counts.dropped += len(chosen)
            raise
        done = perf_counter()
        with self._changed:
            for camera, state in zip(chosen, after, strict=True):
                # One that has left meanwhile is gone; one of its name may be there again.
                camera.state = state
            self._counts.served += len(chosen)
        return [
            _served(camera, waiting, out, state, started, done)
            for camera, waiting, out, state in zip(chosen, taken, outputs, after, strict=True)
        ]

    def serve_until(self, stopped: threading.Event) -> Iterator[Served]:
        """Serves for as long as an event is not set; then ends, with frames left waiting."""
        while not stopped.is_set():
            yield from self.serve(timeout=0.1)

    def _ready(self) -> bool:
        return any(camera.waiting for camera in self._cameras.values())

    def _choose(self) -> list[_Camera]:
        """Cameras for one forward pass, in the order of how long their frames have waited."""
        ready = sorted((c for c in self._cameras.values() if c.waiting), key=lambda c: c.waiting[0].since)
        shape = ready[0].waiting[0].frame.shape
        return [camera for camera in ready if camera.waiting[0].frame.shape == shape][: self._batch]

    def _step(self, frames_BHWC: Frame, states: list[StreamState | None]) -> tuple[list[Any], list[StreamState]]:
        """One forward pass; outputs and states camera by camera."""
        x_BCHW = model_input(self._preprocess, self._model.vit, torch.from_numpy(frames_BHWC))
        if len(states) == 1:
            outputs, after = self._model.step(x_BCHW, states[0])
            return [outputs], [after]
        new = [b for b, state in enumerate(states) if state is None]
        old = [b for b, state in enumerate(states) if state is not None]
        outputs_of: dict[int, Any] = {}
        after_of: dict[int, StreamState] = {}
        # Cameras without a state have no buffers that could be joined with the others'.
        for part in (new, old):
            if not part:
                continue
            known = [state for b in part if (state := states[b]) is not None]
            out, after = self._model.step(x_BCHW[part], StreamState.cat(known) if known else None)
            for k, b in enumerate(part):
                outputs_of[b] = stream_of(out, k)
                after_of[b] = after.select([k])
        return [outputs_of[b] for b in range(len(states))], [after_of[b] for b in range(len(states))]


def _served(
    camera: _Camera, waiting: _Waiting, outputs: Any, state: StreamState, started: float, done: float
) -> Served:
    macs, flushed_B = state.macs, state.flushed_B
    if macs is None or flushed_B is None:
        raise RuntimeError("the model has reported nothing about this frame")
    return Served(
        camera=camera.name,
        index=waiting.number,
        outputs=outputs,
        macs_ratio=float(macs.share[0]),
        flush=bool(flushed_B[0]),
        waited=started - waiting.since,
        latency=done - waiting.since,
    )
