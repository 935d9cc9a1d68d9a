"""How a frame goes on from the state that the frame before it left, and what it leaves to the next.

Shape suffixes: B streams, N tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from eventful.errors import SelectionError, StreamError
from eventful.options import Resize
from eventful.state import BlockState, StreamState
from policies.protocol import Layout

Saliency = Callable[[Any], Tensor]
"""Outputs of a model to how much their consumer cares for each patch token (B, patches), or for all alike (B, 1), in
[0, 1]."""


LARGEST_PIXEL = 1e6
"""Far beyond any picture, 16 bits included; much larger ones overflow in the first norm."""


def check_frame(frame: Tensor, vit: nn.Module) -> None:
    """Refuses what is no batch of frames (B, 3, H, W) with pixels that are numbers of a size that pictures have.

    Raises:
        StreamError: Saying what is wrong with the frame, or with the mode of the model that it is for.
    """
    if vit.training:
        raise StreamError("the model is in training mode, in which dropout would look like motion: call its eval()")
    if frame.dim() != 4 or not frame.numel():
        raise StreamError(f"a frame must be (streams, channels, height, width), got shape {tuple(frame.shape)}")
    # Both are NaN if any pixel is, and no comparison holds for NaN.
    low, high = frame.detach().aminmax()
    if not (low >= -LARGEST_PIXEL) & (high <= LARGEST_PIXEL):
        raise StreamError(f"the frame has NaN or infinite pixels, or such beyond {LARGEST_PIXEL:g}")


def matching_state(frame: Tensor, state: StreamState, on_resize: Resize, structure: int) -> StreamState | None:
    """The state, or None where everything is made anew: another frame size, or a model with other layers.

    Args:
        frame: (B, 3, H, W).
        state: What the preceding frame left.
        on_resize: What a frame of another size does.
        structure: Number of the model's structure.

    Raises:
        StreamError: If the frame has another number of streams, or another size and `on_resize` is "error".
    """
    if frame.shape[0] != state.streams:
        raise StreamError(
            f"the frame has {frame.shape[0]} streams, the state {state.streams}: reset() or select() first"
        )
    size = (frame.shape[-2], frame.shape[-1])
    if structure != state.structure:
        return None
    if size == state.size:
        return state
    if on_resize == "flush":
        return None
    raise StreamError(
        f"the frame is {size[0]}x{size[1]}, the frames of this stream were {state.size[0]}x{state.size[1]}: "
        'reset() before a change of size, or wrap with on_resize="flush"'
    )


def fresh_state(frame: Tensor, blocks: int, structure: int, state: StreamState | None) -> StreamState:
    """A state without buffers; frame numbers and the memory of the policy go on.

    Args:
        frame: (B, 3, H, W).
        blocks: Number of transformer blocks.
        structure: Number of the model's structure.
        state: State from before the flush, if there is one.
    """
    flush_B = torch.ones(frame.shape[0], dtype=torch.bool, device=frame.device)
    size = (frame.shape[-2], frame.shape[-1])
    empty = [BlockState() for _ in range(blocks)]
    if state is None:
        return StreamState(empty, flush_B, size, structure=structure)
    return StreamState(empty, flush_B, size, memory=dict(state.memory), frame=state.frame, structure=structure)


@torch.no_grad()
def look(state: StreamState, outputs: Any, saliency: Saliency, layout: Layout) -> None:
    """Notes in a state what the consumer of a frame's outputs cared for.

    Raises:
        ValueError: If `saliency` returns something else than a value for each patch token, or one for all.
    """
    seen = saliency(outputs)
    patches = layout.tokens - layout.prefix
    if tuple(seen.shape) not in {(state.streams, patches), (state.streams, 1)}:
        raise ValueError(
            f"saliency must be ({state.streams}, {patches}), one value for each patch token, or ({state.streams}, 1), "
            f"one for the whole frame; got {tuple(seen.shape)}"
        )
    prefix_BP = torch.ones(state.streams, layout.prefix, device=seen.device)
    now_BN = torch.cat([prefix_BP, seen.float().expand(-1, patches)], 1)
    before_BN = state.saliency_BN
    if before_BN is not None and state.flushed_B is not None:
        before_BN = torch.where(state.flushed_B[:, None], now_BN, before_BN)
    state.saliency_BN, state.saliency_before_BN = now_BN, now_BN if before_BN is None else before_BN


def close_frame(state: StreamState, before: dict[str, Tensor], flush: bool, flush_B: Tensor | None) -> None:
    """Counts a frame, notes which streams it flushed, and looks at what the policy remembers.

    Args:
        state: State of the streams after the frame.
        before: What the policy remembered before it.
        flush: Whether all streams were flushed.
        flush_B: Streams that were flushed beside others; None if there were none. What the policy made of them, when it
            was asked for the others, is forgotten.

    Raises:
        SelectionError: If what the policy remembers is not there for each stream.
    """
    none_B = torch.zeros_like(state.flush_B)
    for name, known in state.memory.items():
        if not isinstance(known, Tensor) or known.shape[:1] != none_B.shape:
            found = tuple(known.shape) if isinstance(known, Tensor) else type(known).__name__
            raise SelectionError(
                f"a policy remembers tensors with its {state.streams} streams as first dimension; "
                f"memory[{name!r}] is {found}"
            )
    if flush_B is not None:
        for name, known in state.memory.items():
            kept = before.get(name, torch.zeros_like(known))
            state.memory[name] = torch.where(_as_wide(flush_B, known), kept, known)
    state.frame += 1
    state.flush_B = none_B
    state.flushed_B = ~none_B if flush else none_B if flush_B is None else flush_B


@contextmanager
def whole_or_flush(state: StreamState | None) -> Iterator[None]:
    """A stretch of code that edits buffers of this state, which begins with a flush if the code breaks off.

    Args:
        state: What the preceding frame left; None where nothing of it is edited.
    """
    try:
        yield
    except BaseException:
        if state is not None:
            state.flush_B = torch.ones_like(state.flush_B)
        raise


class OneAtATime:
    """Lets one thread in and refuses the others; a copy is free whoever holds the original."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[OneAtATime], tuple[()]]:
        return OneAtATime, ()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise StreamError(
                "another thread is in the middle of a frame of this model, whose state it edits: give each thread a "
                "state of its own, model.step(frame, state)"
            )

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def forget(model: nn.Module, incompatible_keys: Any) -> None:
    """Makes an eventful model that has loaded weights flush: whatever states there are, they are of the old ones."""
    model._plans.structure += 1  # type: ignore[union-attr, operator]


def editable(state: StreamState) -> StreamState:
    """A state whose containers can be filled anew, and whose tensors can be edited in the current grad mode."""
    leave_inference = not torch.is_inference_mode_enabled()
    return state.map(lambda x: x.clone() if leave_inference and x.is_inference() else x)


def begin_anew(state: StreamState, streams: Sequence[int]) -> None:
    """Lets the next frame flush the streams with the given indices, too, and the policy remember nothing of them.

    Raises:
        IndexError: If there is no such stream.
    """
    for stream in streams:
        if not 0 <= stream < state.streams:
            raise IndexError(f"there is no stream {stream}; there are {state.streams}")
    anew_B = torch.zeros_like(state.flush_B)
    anew_B[list(streams)] = True
    state.flush_B = state.flush_B | anew_B
    state.memory = {name: known.masked_fill(_as_wide(anew_B, known), 0) for name, known in state.memory.items()}


def _as_wide(flag_B: Tensor, known: Tensor) -> Tensor:
    """A flag for each stream, in as many dimensions as something that a policy remembers."""
    return flag_B.reshape(-1, *[1] * (known.dim() - 1))
