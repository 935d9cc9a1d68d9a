"""One frame through the network: generators that stop at each gate and are sent a selection.

`through_gates` is the paper's pipeline (Eventful Transformers, section 3.3: three gate-buffer pairs in every block);
`through_frame` decides once, on the embedded tokens, and sends only the selected ones through all blocks, where
they attend to the buffered keys and values of all tokens.

Shape suffixes: B streams, N tokens, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from eventful.attention.buffers import QKV, buffered, write
from eventful.attention.protocol import AttentionLayer
from eventful.checks.selections import checked
from eventful.families.backbone import Backbone
from eventful.families.block import Block
from eventful.frame_plan import FramePlan
from eventful.macs.ledger import MacLedger
from eventful.motion.compensate import follow_motion
from eventful.options import Options
from eventful.rows import AllRows, Counts, Rows, rows_of
from eventful.state import AttentionState, BlockState, GateState, StreamState
from eventful.stream_checks import close_frame
from policies.protocol import GateKind, GateObservation, Policy, Selection

Decisions = Generator[GateObservation, Selection, Tensor]
Decide = Callable[[GateObservation], Selection]
Result = TypeVar("Result")


class FrameRun:
    """What the gates of one frame share.

    Args:
        plan: Sizes and costs.
        options: How the model runs.
        state: State of the B streams; edited in place.
        flush: Whether everything is computed without asking a policy.
        masked: Masked (training) or packed execution.
        policy: Policy that is attached to the model; None where none is asked.
        flush_B: Streams that are flushed beside others that are not, None if there are none.

    Attributes:
        flush_B: The same, and those that were found to be cut.
    """

    def __init__(
        self,
        plan: FramePlan,
        options: Options,
        state: StreamState,
        flush: bool,
        masked: bool,
        policy: Policy | None = None,
        flush_B: Tensor | None = None,
    ) -> None:
        self.plan, self.options, self.state, self.masked = plan, options, state, masked
        # What the policy itself spends at a gate of a stream, beyond the error norm.
        self._policy, self._policy_macs = policy, 0.0 if policy is None else policy.macs(plan.layout)
        self.flush = flush
        self.ledger = MacLedger(state.streams, plan.dense)
        self.ledger.add("embed", plan.embed)
        self.ledger.add("head", plan.head)
        self.flush_B: Tensor | None = None
        self._running_B: Counts = np.ones(state.streams)
        if flush_B is not None:
            self._flush_also(flush_B)
        self._share_B = None if flush or state.macs is None else state.macs.share
        self._gate = 0
        self._previous: Rows | None = None

    def decide(
        self,
        gate: GateState | None,
        kind: GateKind,
        input_BND: Tensor,
        output_BND: Tensor | None = None,
        block: BlockState | None = None,
    ) -> Generator[GateObservation, Selection, tuple[Rows, Tensor, GateState]]:
        """Asks for one decision, and brings the gate's references up to date.

        Returns:
            The rows to compute, their current tokens, and the gate's new state.

        Raises:
            SelectionError: If the answer does not fit.
        """
        B, N = input_BND.shape[:2]
        frame = self.state.frame
        if self.flush or gate is None:
            rows: Rows = AllRows(B, N, in_place=not self.masked)
            stamp_BN = torch.full((B, N), frame, dtype=torch.int32, device=input_BND.device)
            tokens = input_BND
            return rows, tokens, GateState(rows.put(None, tokens), stamp_BN)
        if self._gate == 0 and self.options.scene_cut is not None:
            self._cut(input_BND, gate.reference_BND, self.options.scene_cut)
        observation = GateObservation(
            layout=self.plan.layout,
            gate=self._gate,
            kind=kind,
            input_BND=input_BND,
            reference_BND=gate.reference_BND,
            age_BN=frame - gate.stamp_BN,
            previous_BN=None if self._previous is None else self._previous.mask(),
            share_B=self._share_B,
            flushed_B=self.state.flushed_B,
            memory=self.state.memory,
            output_BND=output_BND,
            key_BNHd=None if block is None else block.attention.k_BNHd,
            query_BNHd=None if block is None else block.attention.q_BNHd,
            saliency_BN=self.state.saliency_BN,
            saliency_before_BN=self.state.saliency_before_BN,
            motion_B2=self.state.motion_B2,
            shared={} if block is None else block.shared,
        )
        selection = yield observation
        name = "" if self._policy is None else self._policy.name
        # Updates of attention go by which keys have changed: there, every row counts.
        fills = self.options.granularity == "frame" or self.options.attention == "recompute"
        rows = rows_of(checked(selection, observation, self.masked, name), N, self.flush_B, self.masked, fills)
        self.ledger.add("gates", self._running_B * float(N * input_BND.shape[2]))
        self.ledger.add("policy", self._running_B * self._policy_macs)
        self._gate += 1
        self._previous = rows
        tokens = rows.take(input_BND)
        sent = AllRows(B, N, in_place=not self.masked) if self.options.reference == "previous" else rows
        reference_BND = sent.put(gate.reference_BND, input_BND if sent is not rows else tokens)
        return rows, tokens, GateState(reference_BND, rows.stamp(gate.stamp_BN, frame))

    def _cut(self, input_BND: Tensor, reference_BND: Tensor, limit: float) -> None:
        """Flushes streams whose tokens have changed by more than `limit` of what they hold.

        The change of a stream is |c - u| / |u - mean of u over its tokens|, norms over all patch tokens: 0 for a
        standing picture, and near the square root of 2 for two pictures that have nothing in common.
        """
        now_BND, then_BND = (x[:, self.plan.layout.prefix :].detach().float() for x in (input_BND, reference_BND))
        change_B = torch.linalg.vector_norm(now_BND - then_BND, dim=(1, 2))
        held_B = torch.linalg.vector_norm(then_BND - then_BND.mean(1, keepdim=True), dim=(1, 2))
        self.ledger.add("gates", float(input_BND.shape[1] * input_BND.shape[2]))
        cut_B = change_B > limit * held_B
        if bool(cut_B.any()):
            self._flush_also(cut_B)

    def _flush_also(self, flush_B: Tensor) -> None:
        self.flush_B = flush_B if self.flush_B is None else self.flush_B | flush_B
        # Nobody is asked about a stream that is flushed: its errors and policy are not counted.
        self._running_B = (~self.flush_B).cpu().double().numpy()


def one_frame(
    run: FrameRun, backbone: Backbone, frame: Tensor
) -> Generator[GateObservation, Selection, tuple[Tensor, StreamState]]:
    """One frame (B, 3, H, W) from pixels to features, which are returned with the state after it."""
    plan, state = run.plan, run.state
    memory = dict(state.memory)
    if plan.blank_ND is not None:
        run.ledger.add("motion", follow_motion(state, frame, plan.layout, plan.blank_ND))
    # Patch embeddings come out of a convolution channel by channel; sums would keep that order, and be slow.
    tokens_BND = backbone.embed(frame).contiguous()
    if run.options.granularity == "gate":
        features_BND = backbone.finish((yield from through_gates(run, plan.blocks, tokens_BND)))
    else:
        rows, tokens = yield from through_frame(run, plan.blocks, tokens_BND)
        if not rows.empty:
            state.features_BND = rows.put(state.features_BND, backbone.finish(tokens))
        # The buffer is edited in place by the next frame; what the caller holds must not change.
        features_BND = buffered(state.features_BND).clone()
    close_frame(state, memory, run.flush, run.flush_B)
    state.macs = run.ledger.report()
    return backbone.features(features_BND, state.size), state


def through_gates(run: FrameRun, blocks: Sequence[Block], x_BND: Tensor) -> Decisions:
    """Runs the blocks with three decisions in each; returns the output of the last block. May edit x_BND."""
    after_norm = run.options.gate_position == "after_norm"
    # Before the norm, x itself is what policies are shown, and may remember.
    add = torch.Tensor.add_ if after_norm and not run.masked else torch.add
    for block, state in zip(blocks, run.state.blocks, strict=True):
        hooked = block.hooked
        taken_BND = block.enter(x_BND)
        # Hooks may keep what they see: it is not edited.
        x_BND = taken_BND.clone() if hooked else taken_BND
        out_BND = yield from _attend(run, block, state, x_BND)
        rows, tokens, state.gates["proj"] = yield from run.decide(state.gates.get("proj"), "proj", out_BND, block=state)
        run.ledger.add("token_wise", rows.counts * block.proj_macs)
        if not rows.empty:
            state.proj_BND = rows.put(state.proj_BND, block.proj(tokens))
        x_BND = add(x_BND, buffered(state.proj_BND))

        rows, tokens, state.gates["mlp"] = yield from run.decide(
            state.gates.get("mlp"), "mlp", block.norm2(x_BND) if after_norm else x_BND, block=state
        )
        run.ledger.add("token_wise", rows.counts * block.mlp_macs)
        if not rows.empty:
            state.mlp_BND = rows.put(state.mlp_BND, block.mlp(tokens if after_norm else block.norm2(tokens)))
        x_BND = add(x_BND, buffered(state.mlp_BND))
        x_BND = block.leave(taken_BND, x_BND).clone() if hooked else x_BND
        if block.after is not None:
            x_BND = x_BND + block.after()
    return x_BND


def _attend(run: FrameRun, block: Block, state: BlockState, x_BND: Tensor) -> Decisions:
    """The qkv gate and attention; returns attention outputs (B, N, H * d)."""
    after_norm = run.options.gate_position == "after_norm"
    rows, tokens, state.gates["qkv"] = yield from run.decide(
        state.gates.get("qkv"), "qkv", block.norm1(x_BND) if after_norm else x_BND, block=state
    )
    run.ledger.add("token_wise", rows.counts * block.qkv_macs)
    if not rows.empty:
        state.shared = {}
    new = None if rows.empty else block.qkv(tokens if after_norm else block.norm1(tokens), rows)
    attend = _attention_masked if run.masked else _attention_packed
    out_BNHd = attend(run, block.attention, state.attention, rows, new)
    return out_BNHd.flatten(2).to(x_BND.dtype)


def _attention_packed(
    run: FrameRun, attention: AttentionLayer, state: AttentionState, rows: Rows, new: QKV | None
) -> Tensor:
    """Brings the buffers up to date; returns attention outputs (B, N, H, d)."""
    mode, ledger = run.options.attention, run.ledger
    if mode == "paper":
        return attention.update_paper(state, rows, new, ledger, run.options.paper_types)
    update = attention.update_exact if mode == "exact" else attention.recompute
    return update(state, rows, new, ledger)


def _attention_masked(
    run: FrameRun, attention: AttentionLayer, state: AttentionState, rows: Rows, new: QKV | None
) -> Tensor:
    """The same with gradients; the ledger has the cost of the packed frame."""
    if new is None:
        raise ValueError("masked execution computes all rows")
    mode, ledger = run.options.attention, run.ledger
    if mode == "paper":
        return attention.blend_paper(state, rows, new, ledger, run.options.paper_types)
    if mode == "exact" and not run.flush:
        attention.count_exact(ledger, rows)
    else:
        attention.count_dense(ledger, float(rows.tokens), rows.tokens)
    return attention.blend(state, rows, new)


def through_frame(
    run: FrameRun, blocks: Sequence[Block], x_BND: Tensor
) -> Generator[GateObservation, Selection, tuple[Rows, Tensor]]:
    """Runs the blocks with one decision for all of them; returns the rows and their outputs of the last block."""
    rows, tokens, run.state.frame_gate = yield from run.decide(
        run.state.frame_gate, "frame", x_BND, output_BND=run.state.features_BND
    )
    if rows.empty:
        return rows, tokens
    for block, state in zip(blocks, run.state.blocks, strict=True):
        taken = tokens = block.enter(tokens)
        q, k, v = block.qkv(block.norm1(tokens), rows)
        write(state.attention, rows, (None, k, v))
        tokens = tokens + block.proj(block.attention.rows(q, rows, state.attention).flatten(-2))
        tokens = block.leave(taken, tokens + block.mlp(block.norm2(tokens)))
        if block.after is not None:
            tokens = tokens + rows.table(block.after())
        run.ledger.add("token_wise", rows.counts * block.macs)
        block.attention.count_dense(run.ledger, rows.counts, rows.tokens)
    return rows, tokens


def drive(generator: Generator[GateObservation, Selection, Result], decide: Decide) -> Result:
    """Runs a generator of decisions to its end and returns its result."""
    return _drive(generator, decide)


# Which rows run is known at run time only: a compiler around the whole model would cut it into dozens of graphs, and
# its guards fail on the ledger's arrays under inference mode. What pays is compiled by `wrap(compile=...)`.
@torch.compiler.disable(reason="a frame follows its selections: compile its layers by eventful.wrap(compile=...)")
def _drive(generator: Generator[GateObservation, Selection, Result], decide: Decide) -> Result:
    # What `decide` raises ends the frame at once, not when somebody has dropped the traceback.
    with closing(generator):
        try:
            observation = next(generator)
            while True:
                observation = generator.send(decide(observation))
        except StopIteration as stop:
            return stop.value
