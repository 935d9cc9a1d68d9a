"""The REINFORCE estimator: sampled masks, packed rollouts in the selection environments, no gradient through the model.

From the same state of each stream, K rollouts of T frames are drawn, m ~ Bernoulli(p), p = bounded sigmoid(sharpness *
score). With damage d (from losses, fidelity, or any metric: `envs.rewards`) and cost c = share of dense MACs / budget,
the gradients of E[sum_t d_t] and of E[sum_t c_t] are (Williams, 1992), decision by decision (t, g, n),

    (Q - mean of Q over the other K - 1 rollouts) * grad log p(m)  [+ grad E[own cost | state]]

with Q the damage or cost that is still to come, as far as the decision answers for it (`train.estimators.credit`); they
are added at the price of `train.estimators.budget_control`. A decision's own cost needs no sampling: given the
observation it is p times a constant. Costs to come enter by their expectations too, which leaves the luck of later
draws out.

Shape suffixes: B streams, K rollouts of each, R = B * K, T frames, N tokens, G gates.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch
from torch import Tensor

from envs.engine import EngineState, SelectionEngine
from envs.episodes import Start, log_uniform
from envs.scoring import FrameScore
from eventful.checks.ranges import check_ranges, setting
from policies import Layout, TrainablePolicy
from policies.relaxation import bernoulli_entropy, bounded_probability, log_probability, sample_mask
from train import distributed
from train.estimators.budget_control import BudgetControl
from train.estimators.credit import costs_to_come, leave_one_out, near_and_far, returns
from train.estimators.protocol import WindowOptions, WindowRecord, WindowResult
from train.estimators.streams import StreamSource


@dataclass(frozen=True)
class ReinforceOptions:
    """Settings of the REINFORCE estimator.

    Attributes:
        rollouts: K, rollouts from each state, at least 2.
        discount: Factor per frame by which later damage and cost count less, in [0, 1].
        far: Share of what happens at distant tokens that a decision answers for; 1 is unbiased
            (`train.estimators.credit`).
        entropy: Weight of the mean entropy per decision, in nats.
        p_min: Bound of the probabilities, which stay within [p_min, 1 - p_min].

    Raises:
        ValueError: If a value is out of range.
    """

    rollouts: int = setting(4, "[2, 1000]", also="rollouts")
    discount: float = setting(0.9, "[0, 1]", also="discount")
    far: float = setting(0.1, "[0, 1]", also="far")
    entropy: float = setting(1e-3, "[-100, 100]", also="entropy")
    p_min: float = setting(0.01, "[1e-6, 0.5)", also="p_min")

    def __post_init__(self) -> None:
        check_ranges(self, "reinforce.")


@dataclass
class _Rollouts:
    """What one window of R rollouts leaves behind: T * G decisions, T frames."""

    shift: Tensor
    log_p_RN: list[Tensor] = field(default_factory=list)
    expected_RN: list[Tensor] = field(default_factory=list)
    entropy: list[Tensor] = field(default_factory=list)
    scores: list[list[FrameScore]] = field(default_factory=list)


class ReinforceEstimator:
    """Sampled masks, packed rollouts in the selection environments; implements `Estimator`.

    Args:
        engine: Environments of the training clips. The cost term of its reward should have weight 0: costs are dealt
            with here.
        policy: Policy to be trained.
        source: Source of this process's streams.
        budget_control: Price of compute, and thresholds that follow the budget.
        windows: Length of the windows, each of which is a rollout, and sharpness of the logits.
        options: Number of rollouts, discount, credit, entropy and bounds of the probabilities.

    Raises:
        ValueError: If no clip is longer than the window.
    """

    def __init__(
        self,
        engine: SelectionEngine,
        policy: TrainablePolicy,
        source: StreamSource,
        budget_control: BudgetControl,
        windows: WindowOptions,
        options: ReinforceOptions,
    ) -> None:
        self._engine, self._policy, self._source, self._options = engine, policy, source, options
        self.budget_control = budget_control
        self._window, self._sharpness = windows.window, windows.sharpness
        self._long = [k for k, clip in enumerate(engine.clips) if len(clip) > self._window]
        if not self._long:
            raise ValueError(f"window={self._window} needs clips of {self._window + 1} frames or more")
        self._state: EngineState | None = None
        self._random: list[random.Random] = []
        self._noise: list[torch.Generator] = []

    def begin(self, seed: str) -> None:
        """See `Estimator.begin`."""
        self._state = None
        self._random = [random.Random(f"{seed}/{index}") for index in self._source.indices]
        self._noise = [
            torch.Generator().manual_seed(r.getrandbits(62))
            for r in self._random
            for _ in range(self._options.rollouts)
        ]

    def window(self) -> WindowResult:
        """See `Estimator.window`."""
        options, engine = self._options, self._engine
        streams = len(self._random)
        self._enter()
        engine.set_state(engine.get_state().select([b for b in range(streams) for _ in range(options.rollouts)]))
        record, rollouts = WindowRecord(), _Rollouts(torch.zeros((), requires_grad=True))
        for _ in range(self._window):
            self._frame(rollouts, record)
        picked = [b * options.rollouts + r.randrange(options.rollouts) for b, r in enumerate(self._random)]
        self._state = engine.get_state().select(picked)
        stats = self._backward(rollouts)
        return record.result(stats, engine.layout.tokens, engine.layout.gates)

    def _enter(self) -> None:
        """Puts every stream where its next T frames are all of one clip."""
        engine = self._engine
        if self._state is None:
            engine.clear()
            engine.start({b: self._start(r) for b, r in enumerate(self._random)})
            return
        engine.set_state(self._state)
        ends = {
            b: self._start(self._random[b])
            for b, slot in engine.slots.items()
            if slot.over or slot.frame + self._window > len(engine.clips[slot.clip])
        }
        if ends:
            engine.start(ends)

    def _start(self, chance: random.Random) -> Start:
        clip = self._long[chance.randrange(len(self._long))]
        latest = len(self._engine.clips[clip]) - 1 - self._window
        budget = log_uniform(*self._source.budgets, chance.random())
        return Start(clip, budget, chance.randrange(max(latest // 2, 1)))

    def _frame(self, rollouts: _Rollouts, record: WindowRecord) -> None:
        """One frame of all rollouts: all its decisions, its scores."""
        engine, options = self._engine, self._options
        scores: dict[int, FrameScore] = {}
        for _ in range(engine.layout.gates):
            observation = engine.observe()
            budget_R = engine.budget_B.to(observation.input_BND.device)
            score_RN = self._policy.logit(observation, budget_R)
            probability_RN = bounded_probability(
                self._sharpness * score_RN + rollouts.shift.to(score_RN.device), options.p_min
            )
            mask_RN = self._draw(probability_RN.detach(), observation.layout)
            rollouts.log_p_RN.append(log_probability(probability_RN, mask_RN))
            each = observation.layout.marginal_share(observation.gate)
            pinned = observation.layout.pinned
            # Pinned tokens are updated whatever their probability.
            paid_RN = torch.cat([torch.ones_like(probability_RN[:, :pinned]), probability_RN[:, pinned:]], 1)
            rollouts.expected_RN.append(paid_RN * each / budget_R[:, None])
            rollouts.entropy.append(bernoulli_entropy(probability_RN)[:, pinned:].mean())
            scores = engine.step(mask_RN)
        rollouts.scores.append([scores[b] for b in range(engine.streams)])
        record.frame(engine.groups[0].state)

    def _draw(self, probability_RN: Tensor, layout: Layout) -> Tensor:
        rows = [sample_mask(p_N, noise) for p_N, noise in zip(probability_RN, self._noise, strict=True)]
        mask_RN = torch.stack(rows)
        mask_RN[:, : layout.pinned] = True
        return mask_RN

    def _backward(self, rollouts: _Rollouts) -> dict[str, float]:
        engine, options = self._engine, self._options
        budget_R, device = engine.budget_B, rollouts.log_p_RN[0].device
        relative_TR = torch.tensor([[score.share for score in row] for row in rollouts.scores]) / budget_R
        log_p_TGRN, expected_TGRN = (
            torch.stack(x).unflatten(0, (-1, engine.layout.gates)) for x in (rollouts.log_p_RN, rollouts.expected_RN)
        )

        def surrogate(to_come_TGRN: Tensor) -> Tensor:
            """Its gradient is that of the mean over frames and rollouts of what is to come."""
            advantage_TGRN = leave_one_out(to_come_TGRN, options.rollouts, dim=-2)
            return (advantage_TGRN * log_p_TGRN)[..., engine.layout.pinned :].sum((1, 3)).mean()

        damage_TRN = returns(self._damage(rollouts).to(device), options.discount)
        come_TGRN = costs_to_come(expected_TGRN.detach(), options.discount)
        cost = surrogate(near_and_far(come_TGRN, engine.layout, options.far)) + expected_TGRN.sum((1, 3)).mean()
        entropy = torch.stack(rollouts.entropy).mean()
        self.budget_control.backward(surrogate(damage_TRN[:, None]) - options.entropy * entropy, cost, rollouts.shift)
        by_stream_B = relative_TR.mean(0).unflatten(0, (-1, options.rollouts)).mean(1)
        self.budget_control.steer(budget_R[:: options.rollouts], by_stream_B)
        reward_TR = torch.tensor([[score.reward for score in row] for row in rollouts.scores])
        stats = {
            "reward": reward_TR.mean(),
            "loss": -reward_TR.mean(),
            "distance": torch.tensor([[score.distance for score in row] for row in rollouts.scores]).mean(),
            "share_over_budget": relative_TR.mean(),
            "entropy": entropy.detach(),
        }
        if rollouts.scores[0][0].output:
            moved_TR = torch.tensor([[score.output["distance"] for score in row] for row in rollouts.scores])
            stats["output_distance"] = moved_TR.mean()
        means = {name: float(distributed.mean(value.float().cpu())) for name, value in stats.items()}
        return means | {"price": self.budget_control.price}

    def _damage(self, rollouts: _Rollouts) -> Tensor:
        """Damage that each token answers for (T, R, N), in units of the reward."""
        layout, rows = self._engine.layout, []
        for scores in rollouts.scores:
            by_token = [score.damage_N for score in scores if score.damage_N is not None]
            if by_token:
                rows.append(near_and_far(torch.stack(by_token), layout, self._options.far))
            else:
                # The damage is one of the whole frame: all tokens answer for all of it.
                rows.append(-torch.tensor([score.reward for score in scores])[:, None].expand(-1, layout.tokens))
        return torch.stack(rows)
