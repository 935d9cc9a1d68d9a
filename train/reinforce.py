"""The REINFORCE estimator: sampled masks, packed rollouts in the selection environments, no gradient through the model.

From the same state of each stream, K rollouts of T frames are drawn, m ~ Bernoulli(p), p = bounded sigmoid(sharpness *
score). With damage d (from losses, fidelity, or any metric: `envs.rewards`) and cost c = share of dense MACs / budget,
the objective per stream is E[sum_t d_t] + price * E[sum_t c_t], where price = d/dS weight * log(S)^2 and S is the mean
of c: the same budget term as the Gumbel estimator's. Its gradient (Williams, 1992):

    sum_t  (R_t - mean of R_t over the other K - 1 rollouts) * grad log p(mask_t)  +  price * grad E[c_t | state]

with R_t the discounted damage from t on and price times the discounted cost after t.

The leave-one-out baseline does not depend on the rollout's own draws, so it adds no bias (Kool et al., 2019). A frame's
own cost needs no sampling: given the observation, the expected number of updates is the sum of the probabilities.

Shape suffixes: B streams, K rollouts of each, R = B * K, T frames, N tokens, G gates.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch
from torch import Tensor

from envs.engine import EngineState, SelectionEngine
from envs.episodes import Start
from policies import GateObservation, Layout, LearnedPolicy
from policies.relaxation import bernoulli_entropy, bounded_probability, log_probability, sample_mask
from train import processes
from train.estimator import WindowRecord, WindowResult
from train.streams import StreamSource


@dataclass(frozen=True)
class ReinforceOptions:
    """Settings of the estimator.

    Attributes:
        window: T, frames of a rollout.
        rollouts: K, at least 2.
        discount: Of later damage and cost, per frame.
        entropy: Weight of the mean entropy per decision, in nats.
        p_min: Probabilities stay within [p_min, 1 - p_min].
        sharpness: Logits per unit of score.
        cost_weight: Of the budget term.

    Raises:
        ValueError: If a value is out of range.
    """

    window: int = 8
    rollouts: int = 4
    discount: float = 0.9
    entropy: float = 1e-4
    p_min: float = 0.002
    sharpness: float = 4.0
    cost_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.rollouts < 2:
            raise ValueError(f"rollouts must be at least 2 for a leave-one-out baseline, got {self.rollouts}")
        if not 0 <= self.discount <= 1 or not 0 <= self.p_min < 0.5:
            raise ValueError(f"discount must be in [0, 1], p_min in [0, 0.5): {self.discount=} {self.p_min=}")


@dataclass
class _Rollouts:
    """What one window of R rollouts leaves behind, frame by frame."""

    log_p_R: list[Tensor] = field(default_factory=list)
    entropy_R: list[Tensor] = field(default_factory=list)
    expected_R: list[Tensor] = field(default_factory=list)
    reward_R: list[Tensor] = field(default_factory=list)
    relative_R: list[Tensor] = field(default_factory=list)
    distance_R: list[Tensor] = field(default_factory=list)


class ReinforceEstimator:
    """See the module's docstring; implements `Estimator`.

    Args:
        engine: Environments of the training clips. The cost term of its reward should have weight 0: costs are dealt
            with here.
        policy: To be trained.
        source: Where streams come from.
        options: See `ReinforceOptions`.
    """

    def __init__(
        self, engine: SelectionEngine, policy: LearnedPolicy, source: StreamSource, options: ReinforceOptions
    ) -> None:
        self._engine, self._policy, self._source, self._options = engine, policy, source, options
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
        record, rollouts = WindowRecord(), _Rollouts()
        for _ in range(options.window):
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
            if slot.over or slot.frame + self._options.window > len(engine.clips[slot.clip])
        }
        if ends:
            engine.start(ends)

    def _start(self, chance: random.Random) -> Start:
        clip = chance.randrange(len(self._engine.clips))
        latest = len(self._engine.clips[clip]) - 1 - self._options.window
        low, high = self._source.budgets
        return Start(clip, low * (high / low) ** chance.random(), chance.randrange(max(latest // 2, 1)))

    def _frame(self, rollouts: _Rollouts, record: WindowRecord) -> None:
        """One frame of all rollouts: all its decisions, its scores."""
        engine = self._engine
        budget_R = engine.budget_B
        log_p_R, entropy_R, expected_R = (torch.zeros(len(budget_R)) for _ in range(3))
        for _ in range(engine.layout.gates):
            observation = engine.observe()
            probability_RN = bounded_probability(
                self._options.sharpness * self._policy.score(observation, budget_R.to(observation.input_BND.device)),
                self._options.p_min,
            )
            mask_RN = self._draw(probability_RN.detach(), observation.layout)
            record.decision(observation, mask_RN)
            free = slice(observation.layout.prefix, None)
            log_p_R = log_p_R + log_probability(probability_RN, mask_RN)[:, free].sum(1).cpu()
            entropy_R = entropy_R + bernoulli_entropy(probability_RN)[:, free].mean(1).cpu() / engine.layout.gates
            expected_R = expected_R + self._expected_share(probability_RN, observation).cpu() / budget_R
            scores = engine.step(mask_RN.cpu())
        ordered = [scores[b] for b in range(len(budget_R))]
        rollouts.log_p_R.append(log_p_R)
        rollouts.entropy_R.append(entropy_R)
        rollouts.expected_R.append(expected_R)
        rollouts.reward_R.append(torch.tensor([score.reward for score in ordered]))
        rollouts.relative_R.append(torch.tensor([score.ratio for score in ordered]) / budget_R)
        rollouts.distance_R.append(torch.tensor([score.mean for score in ordered]))

    def _draw(self, probability_RN: Tensor, layout: Layout) -> Tensor:
        rows = [sample_mask(p_N, noise) for p_N, noise in zip(probability_RN, self._noise, strict=True)]
        mask_RN = torch.stack(rows)
        mask_RN[:, : layout.prefix] = True
        return mask_RN

    def _expected_share(self, probability_RN: Tensor, observation: GateObservation) -> Tensor:
        """Share of dense MACs that this gate's updates cost on average, linear in the number of updates."""
        layout = observation.layout
        each = (layout.share(layout.tokens // 2) - layout.share(0)) / (layout.tokens // 2) / layout.gates
        return probability_RN.sum(1) * each

    def _backward(self, rollouts: _Rollouts) -> dict[str, float]:
        options = self._options
        relative_TR = torch.stack(rollouts.relative_R)
        reward_TR = torch.stack(rollouts.reward_R)
        spent = float(processes.mean(relative_TR.mean()).clamp(min=1e-6))
        price = options.cost_weight * 2 * float(torch.tensor(spent).log()) / spent
        advantage_TR = self._advantage(reward_TR, price * relative_TR)
        score_term = -(advantage_TR * torch.stack(rollouts.log_p_R)).mean()
        cost_term = price * torch.stack(rollouts.expected_R).mean()
        entropy = torch.stack(rollouts.entropy_R).mean()
        (score_term + cost_term - options.entropy * entropy).backward()
        stats = {
            "reward": reward_TR.mean(),
            "loss": -reward_TR.mean(),
            "distance": torch.stack(rollouts.distance_R).mean(),
            "spent_over_budget": relative_TR.mean(),
            "entropy": entropy.detach(),
            "advantage_std": advantage_TR.std(),
        }
        return {name: float(processes.mean(value.float())) for name, value in stats.items()}

    def _advantage(self, reward_TR: Tensor, cost_TR: Tensor) -> Tensor:
        """Returns of each frame minus the mean of the other rollouts' (T, R)."""
        own_TR = returns(reward_TR, self._options.discount)
        later_TR = returns(-cost_TR, self._options.discount) + cost_TR
        return leave_one_out(own_TR + later_TR, self._options.rollouts)


def returns(reward_TR: Tensor, discount: float) -> Tensor:
    """Discounted sums of rewards from each frame on: G_t = r_t + discount * G_{t+1}."""
    total_R = torch.zeros_like(reward_TR[0])
    sums: list[Tensor] = []
    for reward_R in reversed(list(reward_TR)):
        total_R = reward_R + discount * total_R
        sums.append(total_R)
    return torch.stack(sums[::-1])


def leave_one_out(value_TR: Tensor, rollouts: int) -> Tensor:
    """Each value minus the mean of the other rollouts from the same state; R = B * K, K rollouts side by side."""
    value_TBK = value_TR.unflatten(1, (-1, rollouts))
    others_TBK = (value_TBK.sum(2, keepdim=True) - value_TBK) / (rollouts - 1)
    return (value_TBK - others_TBK).flatten(1)
