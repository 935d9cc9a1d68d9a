"""What an eventful model remembers of its streams: an explicit, typed tree of tensors.

Every tensor has the streams as its first dimension, so that states can be cloned for search, detached for truncated
backpropagation, moved, and split and joined along the streams.

Shape suffixes: B streams, N tokens, D channels, H heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from eventful.macs.ledger import FrameMacs
from eventful.tensor_tree import bytes_of, cat_tensors, map_named, map_tensors


@dataclass
class GateState:
    """State of one gate.

    Attributes:
        reference_BND: Tokens as they were last sent on (section 3.1, u); with `reference="previous"`, the
            tokens of the preceding frame.
        stamp_BN: Frame number at which each token was last updated, int32.
    """

    reference_BND: Tensor
    stamp_BN: Tensor


@dataclass
class AttentionState:
    """Buffers of one attention layer.

    Attributes:
        q_BNHd: Queries; None with granularity "frame", which never needs old ones.
        k_BNHd: Keys with positions already applied.
        v_BNHd: Values.
        out_BNHd: Attention outputs, float32 (`attention="exact"` and `"paper"`) or the `product_dtype` of the latter.
        lse_BNH: Log-sum-exp of each row of logits, float32 (`attention="exact"` only).
        axes_BNHA: Biases of each query against key rows and key columns (`"exact"`, relative positions only).
        logits_BHNK: Query-key products, scaled (`attention="paper"` only).
        weights_BHNK: Attention weights, each column from its key's last update (`attention="paper"` only).
    """

    q_BNHd: Tensor | None = None
    k_BNHd: Tensor | None = None
    v_BNHd: Tensor | None = None
    out_BNHd: Tensor | None = None
    lse_BNH: Tensor | None = None
    axes_BNHA: Tensor | None = None
    logits_BHNK: Tensor | None = None
    weights_BHNK: Tensor | None = None


@dataclass
class BlockState:
    """State of one transformer block.

    Attributes:
        gates: States of the qkv, proj and mlp gates, by kind (granularity "gate").
        attention: Buffers of the attention layer.
        proj_BND: Token buffer after the output projection.
        mlp_BND: Token buffer after the MLP.
        shared: What policies have computed of the buffered keys and queries, by name; empty once these have changed.
    """

    gates: dict[str, GateState] = field(default_factory=dict)
    attention: AttentionState = field(default_factory=AttentionState)
    proj_BND: Tensor | None = None
    mlp_BND: Tensor | None = None
    shared: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class StreamState:
    """State of B streams between two frames.

    Attributes:
        blocks: State of each transformer block.
        frame_gate: State of the one gate of granularity "frame", else None.
        features_BND: Final tokens of the preceding frame (granularity "frame"), else None.
        flush_B: Whether each stream's next frame is a flush (bool).
        flushed_B: Streams of which the preceding frame computed everything, without asking the policy; None before
            the first frame.
        macs: MACs of the preceding frame.
        memory: Tensors that the policy remembers, by name.
        saliency_BN: How much the consumer cared for each token in the preceding frame's outputs, in [0, 1], float32; 1
            for prefix tokens. None where nobody says.
        saliency_before_BN: The same one frame earlier; that of the preceding frame itself if it was a flush.
        picture_BYX: Small grey picture of the preceding frame, float32 (motion compensation only).
        motion_B2: How far the picture moved in the preceding frame, rows and columns in tokens, float32 (likewise).
        frame: Number of frames seen.
        size: Height and width of the frames in pixels.
        structure: Number of the model's structure, which counts up when its layers are replaced.
    """

    blocks: list[BlockState]
    flush_B: Tensor
    size: tuple[int, int]
    macs: FrameMacs | None = None
    flushed_B: Tensor | None = None
    frame_gate: GateState | None = None
    features_BND: Tensor | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)
    saliency_BN: Tensor | None = None
    saliency_before_BN: Tensor | None = None
    picture_BYX: Tensor | None = None
    motion_B2: Tensor | None = None
    frame: int = 0
    structure: int = 0

    @property
    def streams(self) -> int:
        """Number B of streams."""
        return self.flush_B.shape[0]

    def ages(self) -> Tensor:
        """Frames since each gate last updated each token (B, G, N), int32; 0 if the preceding frame did.

        Raises:
            ValueError: Before the first frame.
        """
        gates = [gate for block in self.blocks for gate in block.gates.values()]
        gates = gates if self.frame_gate is None else [self.frame_gate]
        if not gates:
            raise ValueError("there are no ages before the first frame")
        return self.frame - 1 - torch.stack([gate.stamp_BN for gate in gates], 1)

    def updated(self) -> Tensor:
        """What the gates updated in the preceding frame, whoever asked for it (B, G, N), bool."""
        return self.ages() == 0

    def map(self, function: Callable[[Tensor], Tensor]) -> StreamState:
        """A new state with the function applied to every tensor."""
        return map_tensors(self, function)

    def clone(self) -> StreamState:
        """An independent copy, which runs on without touching this one."""
        return self.map(torch.Tensor.clone)

    def detach(self) -> StreamState:
        """The same values without their gradient history."""
        return self.map(torch.Tensor.detach)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> StreamState:
        """Moves all tensors; `dtype` applies to tokens and buffers.

        Attention sums and N x N buffers stay in the types that they are stored in, as long as these are no wider than
        float32 or `dtype`; log-sum-exps are as wide. Masks, frame numbers and MACs keep their types.
        """

        def move(tensor: Tensor, path: str) -> Tensor:
            leaf, wide = _leaf(path), None if dtype is None else torch.promote_types(dtype, torch.float32)
            if leaf == "lse_BNH" or (leaf in _SUMS and tensor.dtype == torch.float64):
                return tensor.to(device=device, dtype=wide)
            keep = not tensor.is_floating_point() or leaf in _SUMS | _SEEN or ".shared." in path
            return tensor.to(device=device, dtype=None if keep or path.startswith("macs.") else dtype)

        return map_named(self, move)

    def select(self, streams: Sequence[int]) -> StreamState:
        """The state of some of the streams, in the given order (repetition allowed)."""
        index = torch.as_tensor(streams, dtype=torch.long, device=self.flush_B.device)
        return self.map(lambda tensor: tensor.index_select(0, index))

    @staticmethod
    def cat(states: Sequence[StreamState]) -> StreamState:
        """Joins the streams of several states of the same model, mode and frame size.

        What only some of them have in their MACs or their policy's memory is zero for the others: nothing was spent,
        nothing is remembered.

        Raises:
            ValueError: If the states do not fit together.
        """
        if not states:
            raise ValueError("cat needs at least one state")
        if any(state.size != states[0].size for state in states):
            raise ValueError(f"states of different frame sizes: {sorted({s.size for s in states})}")
        if any(state.structure != states[0].structure for state in states):
            raise ValueError("states from before and after layers of the model were replaced cannot be joined")
        newest = max(state.frame for state in states)
        aligned = [state._advance(newest - state.frame) for state in states]
        _fill([state.memory for state in aligned], [state.streams for state in aligned])
        macs = [state.macs for state in aligned if state.macs is not None]
        if len(macs) == len(aligned):
            _fill([m.by_operation for m in macs], [state.streams for state in aligned])
        return cat_tensors(aligned)

    def nbytes(self) -> int:
        """Bytes held by all tensors."""
        return bytes_of(self)

    def named_tensors(self) -> dict[str, Tensor]:
        """All tensors by their place, such as `blocks.0.attention.k_BNHd`."""
        found: dict[str, Tensor] = {}
        map_named(self, lambda tensor, path: found.setdefault(path, tensor))
        return found

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> StreamState:
        """A state of the same form with other tensors, by their places; all of them have to be there."""
        return map_named(self, lambda _, path: tensors[path])

    def counted_from_now(self) -> StreamState:
        """The same with frame 0 as the next one: ages are what they were."""
        return self._advance(-self.frame)

    def _advance(self, frames: int) -> StreamState:
        """Shifts the frame counter, so that ages stay the same."""
        shifted = map_named(self, lambda tensor, path: tensor + frames if _leaf(path) == "stamp_BN" else tensor)
        shifted.frame += frames
        return shifted


_SUMS = {"out_BNHd", "lse_BNH", "logits_BHNK", "weights_BHNK"}
_SEEN = {"saliency_BN", "saliency_before_BN", "picture_BYX", "motion_B2"}


def _fill(tables: Sequence[dict[str, Tensor]], streams: Sequence[int]) -> None:
    """Gives every table the entries of all of them, zero where it had none."""
    known = {name: tensor for table in tables for name, tensor in table.items()}
    for table, count in zip(tables, streams, strict=True):
        for name, tensor in known.items():
            if name not in table:
                table[name] = tensor.new_zeros(count, *tensor.shape[1:])


def _leaf(path: str) -> str:
    return path.rpartition(".")[2]
