"""How a frame goes on from the state that the frame before it left.

Shape suffixes: B streams.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eventful.errors import StreamError
from eventful.options import Resize
from eventful.state import StreamState


def check_frame(frame: Tensor) -> None:
    """Refuses what is no batch of frames (B, 3, H, W) with finite pixels.

    Raises:
        StreamError: Saying what is wrong with the frame.
    """
    if frame.dim() != 4:
        raise StreamError(f"a frame must be (streams, channels, height, width), got shape {tuple(frame.shape)}")
    if not torch.isfinite(frame.sum(dtype=torch.float32)):
        raise StreamError("the frame has NaN or infinite pixels")


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


def memory_without_flushed(memory: dict[str, Tensor], before: dict[str, Tensor], flush_B: Tensor) -> dict[str, Tensor]:
    """What a policy remembers after a frame in which it was asked about flushed streams, too, for nothing."""
    kept = dict(memory)
    for name in before.keys() & memory.keys():
        flush = flush_B.reshape(-1, *[1] * (before[name].dim() - 1))
        kept[name] = torch.where(flush, before[name], memory[name])
    return kept


def editable(state: StreamState) -> StreamState:
    """A state whose containers can be filled anew, and whose tensors can be edited in the current grad mode."""
    leave_inference = not torch.is_inference_mode_enabled()
    return state.map(lambda x: x.clone() if leave_inference and x.is_inference() else x)
