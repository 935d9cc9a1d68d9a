"""`wrap`: a vision transformer that updates only the tokens its policy selects.

Eventful Transformers (Dutson, Li, Gupta, ICCV 2023), section 3. The wrapped model shares the weights of the given one.

Shape suffixes: B streams, N tokens, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from copy import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from eventful.errors import StreamError
from eventful.families.backbone import Backbone
from eventful.families.timm_interface import TimmInterface
from eventful.frame_plan import Plans, gates_of
from eventful.gates import Decide, FrameRun, drive, one_frame
from eventful.macs.ledger import FrameMacs
from eventful.options import OPTION_NAMES, AttentionMode, GatePosition, Options, Prefix, Reference, Resize
from eventful.state import StreamState
from eventful.stream_checks import (
    OneAtATime,
    Saliency,
    begin_anew,
    check_frame,
    editable,
    forget,
    fresh_state,
    look,
    matching_state,
    whole_or_flush,
)
from policies.protocol import GateObservation, Granularity, Layout, Policy, Selection

Step = Generator[GateObservation, Selection, tuple[Tensor, StreamState]]
Result = TypeVar("Result")


def wrap(
    vit: nn.Module,
    policy: Policy,
    granularity: Granularity = "gate",
    attention: AttentionMode = "exact",
    reference: Reference = "updated",
    gate_position: GatePosition = "after_norm",
    buffer_dtype: torch.dtype | None = None,
    on_resize: Resize = "error",
    scene_cut: float | None = None,
    compile: str | None = None,
    saliency: Saliency | None = None,
    motion_compensation: bool = False,
    prefix: Prefix = "pinned",
    product_dtype: torch.dtype | None = None,
) -> EventfulModel:
    """Makes a vision transformer eventful.

    Args:
        vit: A supported model (docs/models.md), not copied; kept in evaluation mode, as dropout would look like motion.
        policy: Chooses the tokens; can be replaced between two frames.
        granularity: `gate`, three decisions in every block, or `frame`, one decision for the whole network.
        attention: `exact`, a streaming update that equals dense attention on the buffers; `paper`, the published
            update on N x N buffers, an approximation; `recompute`, dense attention from the buffers. Only with
            granularity "gate".
        reference: Errors against each token's last update (`updated`) or the previous frame (`previous`, STGT).
        gate_position: Where the qkv and MLP gates sit relative to their layer norm.
        buffer_dtype: Type in which `paper` stores its N x N buffers; None for the type of the tokens.
        on_resize: What a frame of another size than the one before does, if the model takes any size: `error`, or
            `flush` of all streams.
        scene_cut: Flushes a stream by itself when its embedded tokens have changed by more than this share of what
            they held: |change| / |deviation from their mean|, 0 for a standing picture and about 1.4 for an unrelated
            one (less where position embeddings are large). None for never.
        compile: Backend of `torch.compile` (usually `inductor`) for the token-wise layers on selected tokens, however
            many they are; None for none.
        saliency: How much the consumer of the outputs cares for each patch token, in [0, 1], for policies to see at
            the next frame: a function of what the model returns to (B, patches), or (B, 1) for the whole frame.
        motion_compensation: Moves what is stale along with the picture as a whole. Only with granularity "frame".
        prefix: `pinned`: class and register tokens are updated wherever another token is; `ordinary`: they are
            chosen, and counted, like any other, as in the published ViViT. Only with granularity "gate".
        product_dtype: Type of attention weights, values and their sums in `paper`; as published: float16.

    Returns:
        A module that is called with frames (B, 3, H, W), one of each of B independent streams.

    Raises:
        UnsupportedModel: Naming the part of the model that is in the way.
        PolicyMismatch: If the policy was made for another model.
        ValueError: If an option has a value that does not exist.
    """
    how = (granularity, attention, reference, gate_position, buffer_dtype, on_resize, scene_cut, compile)
    return EventfulModel(vit, policy, Options(*how, motion_compensation, prefix, product_dtype), saliency)


class EventfulModel(TimmInterface):
    """A vision transformer with state, made by `wrap`. What runs is what `vit` holds now.

    New blocks or attention make the next frame a flush, and so does `load_state_dict` of this model; other new layers
    and weights do not: `reset()`.
    """

    def __init__(self, vit: nn.Module, policy: Policy, options: Options, saliency: Saliency | None = None) -> None:
        super().__init__()
        self.vit = vit.eval()
        self.saliency = saliency
        self.__dict__["options"] = options  # for good: plans and states depend on them
        self._plans = Plans(self.vit, options)
        self._state: StreamState | None = None
        self._one_at_a_time = OneAtATime()
        self.register_load_state_dict_post_hook(forget)
        self.policy = policy

    @property
    def policy(self) -> Policy:
        """The policy in charge; may be replaced between two frames.

        Raises:
            PolicyMismatch: If a policy is attached that was made for another model.
        """
        return self.__dict__["_policy"]

    @policy.setter
    def policy(self, policy: Policy) -> None:
        granularity = self.options.granularity
        policy.check(gates_of(granularity, len(self.backbone.layers)), self.backbone.dim, granularity)
        self.__dict__["_policy"] = policy
        if self._state is not None:
            self._state.memory = {}

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "budget":
            raise AttributeError("the budget is the policy's: set model.policy.budget")
        if name == "options" or name in OPTION_NAMES:
            raise AttributeError(
                f"{name} of a wrapped model cannot be changed: wrap the model again, its weights are shared"
            )
        # nn.Module would register a policy that is a module as a child, and put it into the state_dict.
        if name == "policy":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def __copy__(self) -> EventfulModel:
        """Another model of the same weights and policy, whose streams go on for themselves."""
        twin = EventfulModel(self.vit, self.policy, self.options, self.saliency)
        twin._plans = copy(self._plans)
        twin._state = None if self._state is None else self._state.clone()
        return twin

    @property
    def backbone(self) -> Backbone:
        """The model's parts, as they are now.

        Raises:
            UnsupportedModel: If a part was replaced by one that is not supported, naming it.
        """
        return self._plans.backbone(self.vit)

    @property
    def state(self) -> StreamState | None:
        """State of the streams after the last frame, None before the first.

        May be set: `model.state = model.state.select([0, 2])` drops streams and keeps others; with a repeated index
        and `reset(streams=[...])` of the copy, or with `StreamState.cat`, it adds some.
        """
        return self._state

    @state.setter
    def state(self, state: StreamState | None) -> None:
        self._state = state

    @property
    def macs(self) -> FrameMacs:
        """MACs of the last frame.

        Raises:
            StreamError: Before the first frame.
        """
        if self._state is None or self._state.macs is None:
            raise StreamError("no frame has been processed since the last reset, so there are no MACs to report")
        return self._state.macs

    def reset(self, streams: Sequence[int] | None = None) -> None:
        """Makes the next frame a flush, for all streams or for those with the given indices.

        Raises:
            IndexError: If there is no such stream.
        """
        if streams is None or self._state is None:
            self._state = None
            return
        begin_anew(self._state, streams)

    def forward(self, frame: Tensor | None = None, **asked: Any) -> Any:
        """What the wrapped model returns for a frame (B, 3, H, W), and what else is asked; see `step` for errors."""
        with self.backbone.asked(frame, asked, self.options.granularity) as given:
            return self._go_on(self.step, given)

    def forward_features(self, frame: Tensor) -> Tensor:
        """What the wrapped model's `forward_features` returns."""
        return self._go_on(self.step_features, frame)

    def _go_on(self, step: Callable[[Tensor, StreamState | None], tuple[Result, StreamState]], frame: Tensor) -> Result:
        """One step from the state that the model itself holds."""
        with self._one_at_a_time:
            result, self._state = step(frame, self._state)
        return result

    def step(self, frame: Tensor, state: StreamState | None, masked: bool = False) -> tuple[Any, StreamState]:
        """One frame without hidden state.

        Args:
            frame: (B, 3, H, W), B independent streams.
            state: What the preceding step returned, None for a flush. Packed execution edits its buffers in place:
                go on with the returned state, or pass `state.clone()` to keep the old one. Where a frame breaks off,
                the next one from the same state is a flush.
            masked: Compute every token and blend by the mask: static shapes, differentiable.

        Returns:
            What the wrapped model returns, and the new state, whose `macs` are this frame's.

        Raises:
            StreamError: If the frame does not fit the state, or has NaN or infinite pixels.
        """
        _, outputs, state = self.step_with_features(frame, state, self.policy.select, masked)
        return outputs, state

    def step_with_features(
        self, frame: Tensor, state: StreamState | None, decide: Decide, masked: bool = False
    ) -> tuple[Tensor, Any, StreamState]:
        """`step` with decisions by `decide`: the features, what the head makes of them, and the new state."""
        features, after = drive(self._run(frame, state, masked), decide)
        with whole_or_flush(None if masked else state):
            outputs = self.backbone.head(features)
            if self.saliency is not None:
                look(after, outputs, self.saliency, self.layout(frame))
        return features, outputs, after

    def step_features(
        self, frame: Tensor, state: StreamState | None, masked: bool = False
    ) -> tuple[Tensor, StreamState]:
        """`step`, ending at what `forward_features` returns."""
        return drive(self.decisions(frame, state, masked), self.policy.select)

    def decisions(self, frame: Tensor, state: StreamState | None, masked: bool = False) -> Step:
        """One frame as a generator, for whoever wants to decide outside of a `Policy`.

        Yields:
            A `GateObservation` at each gate, in order; nothing on a flush. It is sent a `Selection`.

        Returns:
            The features and the new state (the value of `StopIteration`).

        Raises:
            StreamError: If the frame does not fit the state, or has NaN or infinite pixels.
        """
        features, after = yield from self._run(frame, state, masked)
        if self.saliency is not None:
            with torch.no_grad(), whole_or_flush(None if masked else state):
                look(after, self.backbone.head(features), self.saliency, self.layout(frame))
        return features, after

    def layout(self, frame: Tensor) -> Layout:
        """What policies are told about this model on frames like this one (B, 3, H, W)."""
        return self._plans.plan(self.backbone, frame).layout

    def _run(self, frame: Tensor, state: StreamState | None, masked: bool) -> Step:
        """`decisions`, without a look at what comes out."""
        check_frame(frame, self.vit)
        backbone = self._plans.backbone(self.vit)
        if state is not None:
            state = matching_state(frame, state, self.options.on_resize, self._plans.structure)
        if masked:
            return (yield from self._decisions(backbone, frame, state, True))
        with whole_or_flush(state):
            return (yield from torch.no_grad()(self._decisions)(backbone, frame, state, False))

    def _decisions(self, backbone: Backbone, frame: Tensor, state: StreamState | None, masked: bool) -> Step:
        plans = self._plans
        flush = state is None or bool(state.flush_B.all())
        if flush:
            backbone = plans.backbone(self.vit, thorough=True)
            backbone.warn_of_hooks()
        plan = plans.plan(backbone, frame)
        state = fresh_state(frame, len(plan.blocks), plans.structure, state) if flush or not state else editable(state)
        flush_B = state.flush_B if not flush and bool(state.flush_B.any()) else None
        run = FrameRun(plan, self.options, state, flush, masked, self.policy, flush_B)
        return (yield from one_frame(run, backbone, frame))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> EventfulModel:
        """Moves and casts the policy and the state together with the weights."""
        super()._apply(fn, recurse)
        if isinstance(self.policy, nn.Module):
            self.policy._apply(fn)
        if self._state is not None:
            weight = next(self.vit.parameters())
            self._state = self._state.to(weight.device, weight.dtype)
        return self
