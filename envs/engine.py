"""The one core of all selection environments: B streams of clips, stepped decision by decision.

Streams that stand at the same gate share one forward pass (a `Lockstep`). Streams fall out of step when their clips end
at different frames, and join again as soon as they begin a frame together; with one decision per frame, always.

Shape suffixes: B streams, N tokens, F features, C channels, H height, W width, G gates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import eventful
from envs.damage import default_kind
from envs.episodes import Episodes, Start
from envs.lockstep import Lockstep, Slot
from envs.observation import feature_names, gate_features
from envs.rewards import Reward
from envs.scoring import FrameScore, FrameScorer
from envs.task import Clip, VideoTask
from eventful.errors import StreamError
from eventful.state import StreamState
from eventful.tasks import load_task, model_input, saliency_of
from policies.heuristics import Nothing
from policies.protocol import GateObservation, Granularity, Policy


@dataclass(frozen=True)
class EngineState:
    """All streams between two frames, independent of the engine that it was taken from.

    Attributes:
        state: State of the model for all streams.
        slots: Position of each stream in its clip.
    """

    state: StreamState
    slots: tuple[Slot, ...]

    def select(self, streams: Sequence[int]) -> EngineState:
        """Some of the streams, in the given order; with repetition, for several rollouts side by side."""
        return EngineState(self.state.select(streams), tuple(self.slots[b] for b in streams))


class SelectionEngine:
    """Steps B streams of a task's clips.

    Args:
        granularity: Decisions to make: `frame` for one per frame, or `gate` for one at each gate.
        task: A task, or the name of an installed one.
        split: Name of the split whose clips are played.
        budget: Target share of the dense MACs, or a range from which each episode draws, log-uniformly.
        reward: A `Reward`, the name of its kind, or a mapping of its attributes. Where no kind is given it
            is `output` for tasks that offer `output_distance`, `fidelity` for others.
        task_options: Options of a task that is given by name.
        model_options: Options of `eventful.wrap`, such as `{"attention": "recompute"}`.
        policy: Policy whose own MACs go into the ledger, or None; it is never asked.
        score_labels: Whether `info` has the task's loss and metric; if None, wherever there are labels.
        cache_mb: Memory for the dense model's results, in MiB.

    Raises:
        ValueError: If an argument is out of range, or the reward needs labels, or a distance of outputs, that the task
            does not have.
        UserError: If there is no such task.
    """

    def __init__(
        self,
        granularity: Granularity,
        task: VideoTask | str = "doom",
        split: str = "train",
        budget: float | Sequence[float] = 0.1,
        reward: str | Mapping[str, Any] | Reward | None = None,
        task_options: Mapping[str, Any] | None = None,
        model_options: Mapping[str, Any] | None = None,
        policy: Policy | None = None,
        score_labels: bool | None = None,
        cache_mb: int = 512,
    ) -> None:
        self.task: VideoTask = load_task(task, **(task_options or {})) if isinstance(task, str) else task
        self.reward = Reward.of(reward, default_kind(self.task))
        labels = _labels(self.task, self.reward, score_labels)
        self.episodes = Episodes(self.task.clips(split), budget)
        self.model = eventful.wrap(
            self.task.model,
            policy or Nothing(),
            granularity=granularity,
            **{"saliency": saliency_of(self.task), **(model_options or {})},
        )
        self._scorer = FrameScorer(self.task, self.model, self.reward, labels, cache_mb)
        self.layout = self.model.layout(self._inputs([Slot(0, 0, 1.0)]))
        self.features = feature_names(granularity, self.model.saliency is not None)
        self.slots: dict[int, Slot] = {}
        self._groups: list[Lockstep] = []
        self._shown: dict[int, tuple[Slot, Tensor]] = {}

    @property
    def clips(self) -> Sequence[Clip]:
        """Clips of the split."""
        return self.episodes.clips

    @property
    def streams(self) -> int:
        """B."""
        return len(self.slots)

    @property
    def dense_frames(self) -> int:
        """How many frames the dense model has computed for scores; frames played again are not counted twice."""
        return self._scorer.dense_frames

    def start(self, starts: Mapping[int, Start]) -> None:
        """Lets streams begin anew: each gets its flush, and stands at its first decision.

        Args:
            starts: New clip, frame and budget by stream; streams that are not mentioned stay where they are.

        Raises:
            StreamError: If one of them is in the middle of a frame that it shares with streams that stay.
        """
        self._leave(starts)
        # Where nothing has been decided yet, nothing is lost by showing the frame again, together.
        waiting = [group for group in self._groups if group.gate == 0]
        self._begin([*waiting, self._flush(starts)])

    def clear(self) -> None:
        """Forgets all streams; `start` may bring in any number of new ones."""
        self.slots, self._groups, self._shown = {}, [], {}

    def step(self, mask_BN: Tensor, starts: Mapping[int, Start] | None = None) -> dict[int, FrameScore]:
        """One decision of every stream, all in one forward pass as long as they are in step.

        Args:
            mask_BN: Tokens to update (bool). Prefix tokens are always updated, whatever the mask says.
            starts: New clip, frame and budget of streams that begin anew instead; their rows of the mask are ignored.

        Returns:
            Scores of the streams whose frame is complete.

        Raises:
            StreamError: If a stream has ended and does not begin anew.
            ValueError: If the mask has the wrong shape.
        """
        starts = starts or {}
        if not self.slots:
            raise StreamError("there is no stream yet: reset() first")
        if tuple(mask_BN.shape) != (self.streams, self.layout.tokens):
            raise ValueError(f"a mask must be ({self.streams}, {self.layout.tokens}), got {tuple(mask_BN.shape)}")
        over = [b for b, slot in self.slots.items() if slot.over and b not in starts]
        if over:
            raise StreamError(f"the clip of stream {over[0]} has been played to its end: reset() first")
        self._leave(starts)
        ready: list[Lockstep] = []
        scores: dict[int, FrameScore] = {}
        for group in self._groups:
            if group.decide(mask_BN[group.streams]):
                scores |= self._complete(group)
                ready.append(group)
        if starts:
            ready.append(self._flush(starts))
        self._begin(ready)
        return scores

    def observe(self, copy: bool = False) -> GateObservation:
        """What the gate at which all streams stand shows, for policies that look at tensors.

        The graph of a `LearnedPolicy.score` of it outlives the next steps.

        Args:
            copy: Whether all tensors outlive the next step. Without, most are buffers which the step edits in place.

        Raises:
            StreamError: If the streams stand at different gates (`groups` has them all), or there are none.
        """
        if len(self._groups) != 1:
            raise StreamError(f"the streams stand at {len(self._groups)} different gates, not at one")
        return self._groups[0].observe(copy)

    @property
    def groups(self) -> Sequence[Lockstep]:
        """Streams that are in step, each group at a gate of its own."""
        return tuple(self._groups)

    @property
    def budget_B(self) -> Tensor:
        """Target share of each stream."""
        return torch.tensor([self.slots[b].budget for b in range(self.streams)])

    def observations(self) -> np.ndarray:
        """What the environments show of all streams (B, N, F), float32."""
        out_BNF = np.empty((self.streams, self.layout.tokens, len(self.features)), np.float32)
        for group in self._groups:
            observation = group.observe()
            budget_B = self.budget_B[group.streams].to(observation.input_BND.device)
            out_BNF[group.streams] = gate_features(observation, budget_B).cpu().numpy()
        return out_BNF

    def where(self, stream: int) -> dict[str, Any]:
        """Clip, frame, gate and budget at which a stream stands."""
        slot = self.slots[stream]
        gate = next(group.gate for group in self._groups if stream in group.streams)
        return {"clip": self.clips[slot.clip].name, "frame": slot.frame, "gate": gate, "budget": slot.budget}

    def shown(self, stream: int) -> tuple[Clip, int, np.ndarray]:
        """The stream's last complete frame: its clip, its index, and at what rate each patch token was updated.

        Raises:
            StreamError: If the stream has had none.
        """
        if stream not in self._shown:
            raise StreamError(f"stream {stream} has no frame to show: reset() first")
        slot, rate_N = self._shown[stream]
        rate_hw = rate_N[self.layout.prefix :].reshape(self.layout.grid)
        return self.clips[slot.clip], slot.frame, rate_hw.cpu().numpy()

    def get_state(self) -> EngineState:
        """All streams as they stand, to come back to.

        Raises:
            StreamError: If a stream is in the middle of a frame, or there is none.
        """
        if len(self._groups) != 1 or self._groups[0].gate:
            raise StreamError("a state can be taken only where all streams stand at the first gate of a frame")
        slots = tuple(dataclasses.replace(self.slots[b]) for b in range(self.streams))
        return EngineState(self._groups[0].state.clone(), slots)

    def set_state(self, state: EngineState) -> None:
        """Goes on from a state, which stays as it is; there may be another number of streams in it."""
        self.slots = {b: dataclasses.replace(slot) for b, slot in enumerate(state.slots)}
        self._shown = {b: shown for b, shown in self._shown.items() if b in self.slots}
        self._groups = []
        self._begin([Lockstep(self.model, list(self.slots), state.state.clone())])

    def _leave(self, streams: Mapping[int, Start]) -> None:
        """Takes streams out of their groups."""
        kept = [group.without(set(streams), self._inputs_of) for group in self._groups]
        self._groups = [group for group in kept if group is not None]

    def _flush(self, starts: Mapping[int, Start]) -> Lockstep:
        streams = sorted(starts)
        self.slots |= {b: Slot(starts[b].clip, starts[b].frame, starts[b].budget) for b in streams}
        self.slots = dict(sorted(self.slots.items()))
        group = Lockstep.flushed(self.model, streams, self._inputs_of)
        self._advance(group, torch.ones(len(streams), self.layout.tokens))
        return group

    def _begin(self, ready: Sequence[Lockstep]) -> None:
        """Joins the groups that stand between two frames, and shows them their next frames."""
        if ready:
            joined = Lockstep.joined(ready)
            joined.begin(self._inputs_of)
            self._groups = [g for g in self._groups if g not in ready] + [joined]

    def _complete(self, group: Lockstep) -> dict[int, FrameScore]:
        slots = [self.slots[b] for b in group.streams]
        rates_BGN = group.rates()
        scores = self._scorer(
            keys=[(slot.clip, slot.frame) for slot in slots],
            x_BCHW=group.frames_BCHW,
            targets=[self.clips[s.clip].targets[s.frame] for s in slots if self.clips[s.clip].targets],
            features=group.features,
            macs=group.macs,
            rates_BG=rates_BGN.mean(2),
            budgets=[slot.budget for slot in slots],
        )
        self._advance(group, rates_BGN.mean(1))
        return dict(zip(group.streams, scores, strict=True))

    def _advance(self, group: Lockstep, shown_BN: Tensor) -> None:
        """Moves on to the next frames. After a clip's last frame it stands still: the streams must show something."""
        for b, shown_N in zip(group.streams, shown_BN, strict=True):
            slot = self.slots[b]
            self._shown[b] = (slot, shown_N)
            last = len(self.clips[slot.clip]) - 1
            self.slots[b] = dataclasses.replace(slot, frame=min(slot.frame + 1, last), over=slot.frame == last)

    def _inputs_of(self, streams: Sequence[int]) -> Tensor:
        return self._inputs([self.slots[b] for b in streams])

    def _inputs(self, slots: Sequence[Slot]) -> Tensor:
        frames = [self.clips[s.clip].frames_THWC[s.frame][None] for s in slots]
        if len({frame.shape for frame in frames}) == 1:
            return model_input(self.task.preprocess, self.model.vit, torch.cat(frames))
        return torch.cat([model_input(self.task.preprocess, self.model.vit, frame) for frame in frames])


def _labels(task: VideoTask, reward: Reward, wanted: bool | None) -> bool:
    """Whether frames are compared with labels."""
    if not task.has_labels and (reward.objective.needs_labels or wanted):
        what = f"a reward of kind {reward.kind!r}" if reward.objective.needs_labels else "score_labels"
        raise ValueError(f"{what} needs labels, which task {task.name} does not have")
    return task.has_labels if wanted is None else wanted or reward.objective.needs_labels
