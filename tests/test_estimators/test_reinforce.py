"""REINFORCE against closed forms: exact gradients by enumeration, credit, baselines, prices, budgets."""

import itertools
import math

import pytest
import torch
from tiny_task import TinyTask

from envs.engine import SelectionEngine
from envs.episodes import Start
from policies import Layout, LearnedPolicy, ThresholdTable
from policies.relaxation import log_probability
from train.estimators.budget_control import BudgetControl, BudgetOptions
from train.estimators.credit import costs_to_come, leave_one_out, near_and_far, returns
from train.estimators.protocol import WindowOptions
from train.estimators.reinforce import ReinforceEstimator, ReinforceOptions
from train.estimators.streams import StreamSource

BUDGET = 0.3
GRID = Layout(13, 1, (3, 4), 8, 1, "frame", tuple(m / 13 for m in range(14)))


def test_returns_discount_later_rewards() -> None:
    reward = torch.tensor([[1.0], [2.0], [4.0]])
    assert returns(reward, 0.5)[:, 0].tolist() == [1 + 1 + 1, 2 + 2, 4]


def test_costs_to_come_are_those_of_later_gates_and_frames() -> None:
    cost_TG = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    assert costs_to_come(cost_TG, 0.5).tolist() == [[6 + 28, 4 + 28, 0 + 28], [48, 32, 0]]


def test_credit_is_the_neighbourhood_and_a_share_of_the_rest() -> None:
    value_N = torch.arange(13.0) ** 2
    near_N, grid = near_and_far(value_N, GRID, 0.0), value_N[1:].reshape(3, 4)
    assert near_N[1] == value_N[0] + grid[:2, :2].sum()
    assert near_N[1 + 5] == value_N[0] + grid[:3, :3].sum()
    assert near_N[0] == value_N.sum(), "class tokens see everything"
    assert torch.equal(near_and_far(value_N, GRID, 1.0), value_N.sum().expand(13))
    torch.testing.assert_close(near_and_far(value_N, GRID, 0.25), 0.75 * near_N + 0.25 * value_N.sum())


def test_leave_one_out_subtracts_the_mean_of_the_others() -> None:
    value = torch.tensor([[1.0, 3.0, 8.0, 0.0, 0.0, 6.0]])
    expected = [1 - 5.5, 3 - 4.5, 8 - 2, -3, -3, 6]
    assert leave_one_out(value, 3)[0].tolist() == expected
    assert leave_one_out(value[..., None].expand(1, 6, 2), 3, dim=-2)[0, :, 1].tolist() == expected


def test_leave_one_out_is_unbiased_with_less_variance() -> None:
    """A bandit of one Bernoulli decision: gradient of E[r] in the logit is p (1 - p) (r1 - r0)."""
    torch.manual_seed(0)
    p, r0, r1, runs, k = 0.3, 5.0, 6.0, 100_000, 4
    mask = torch.rand(runs, k) < p
    reward = torch.where(mask, r1, r0)
    score = mask.float() - p
    plain = (reward * score).mean(1)
    baseline = (leave_one_out(reward.reshape(1, -1), k).view(runs, k) * score).mean(1)
    exact = p * (1 - p) * (r1 - r0)
    error = 4 * float(baseline.std()) / math.sqrt(runs)
    assert float(baseline.mean()) == pytest.approx(exact, abs=error)
    assert baseline.var() < plain.var() / 50


class FewTokens(LearnedPolicy):
    """Updates some tokens alone: score = logit_GN + weight * log(age), so that costs to come depend on the past."""

    def __init__(self, engine: SelectionEngine, tokens: list[int]) -> None:
        layout = engine.layout
        super().__init__(layout.gates, layout.dim, layout.granularity, budgets=[BUDGET])
        generator = torch.Generator().manual_seed(3)
        self.logit_GN = torch.nn.Parameter(torch.randn(layout.gates, layout.tokens, generator=generator))
        self.weight = torch.nn.Parameter(torch.tensor(0.8))
        others_N = torch.ones(layout.tokens, dtype=torch.bool)
        others_N[tokens] = False
        self.register_buffer("others_N", others_N)

    def score(self, observation, budget_B=None):
        score_BN = self.logit_GN[observation.gate] + self.weight * observation.age_BN.float().log()
        return score_BN.masked_fill(self.others_N, -40.0)


class Apart:
    """In the place of `BudgetControl`: keeps the two gradients apart."""

    price = 0.0

    def __init__(self, policy: FewTokens) -> None:
        self._parameters = [policy.logit_GN, policy.weight]
        self.gradients: list[list[torch.Tensor]] = []

    def backward(self, damage, cost, shift) -> None:
        pairs = [torch.autograd.grad(term, self._parameters, retain_graph=True) for term in (damage, cost)]
        self.gradients.append([torch.cat([g.flatten() for g in pair]) for pair in pairs])

    def steer(self, budget_B, relative_B) -> None:
        pass


def make(granularity: str, frames: int, tokens: list[int]) -> tuple[SelectionEngine, FewTokens]:
    reward = {"kind": {"fidelity": 1.0, "worst": 0.0}, "weight": 0.0, "scale": 1.0}
    engine = SelectionEngine(granularity, TinyTask((frames + 1,)), reward=reward, score_labels=False)
    return engine, FewTokens(engine, tokens)


def enumerated(engine: SelectionEngine, policy: FewTokens, frames: int, tokens: list[int]) -> list[torch.Tensor]:
    """Gradients of the expected damage and of the expected cost: sums over everything that can be decided."""
    decisions = frames * engine.layout.gates
    totals = [torch.zeros(()), torch.zeros(())]
    for bits in itertools.product((False, True), repeat=decisions * len(tokens)):
        engine.clear()
        engine.start({0: Start(0, BUDGET)})
        log_p, damage, cost = torch.zeros(()), 0.0, 0.0
        for chosen in torch.tensor(bits).reshape(decisions, -1):
            mask_1N = torch.zeros(1, engine.layout.tokens, dtype=torch.bool)
            mask_1N[0, tokens] = chosen
            probability_1N = policy.score(engine.observe()).sigmoid()
            log_p = log_p + log_probability(probability_1N, mask_1N)[0, tokens].sum()
            for score in engine.step(mask_1N).values():
                damage, cost = damage - score.reward, cost + score.share / BUDGET
        totals = [total + log_p.exp() * value for total, value in zip(totals, (damage, cost), strict=True)]
    found = [
        torch.autograd.grad(total / frames, [policy.logit_GN, policy.weight], retain_graph=True) for total in totals
    ]
    return [torch.cat([g.flatten() for g in gradients]) for gradients in found]


def sampled(engine: SelectionEngine, policy: FewTokens, frames: int, windows: int, far: float) -> list[torch.Tensor]:
    """The estimator's gradients of damage and cost, window by window, each (windows, parameters)."""
    source = StreamSource(engine.clips, range(4), (BUDGET, BUDGET))
    of_frames = WindowOptions(frames, sharpness=1.0)
    options = ReinforceOptions(rollouts=16, discount=1.0, far=far, entropy=0.0, p_min=1e-6)
    apart = Apart(policy)
    estimator = ReinforceEstimator(engine, policy, source, apart, of_frames, options)  # type: ignore[arg-type]
    for k in range(windows):
        estimator.begin(f"{k}")
        estimator.window()
    return [torch.stack(column) for column in zip(*apart.gradients, strict=True)]


@pytest.mark.parametrize(
    ("granularity", "frames", "tokens"), [("frame", 2, [6, 11]), ("frame", 3, [6]), ("gate", 1, [6])]
)
def test_the_gradient_is_the_exact_one(granularity, frames, tokens) -> None:
    """A bandit whose every arm can be tried: the mean of the estimates against the sum over all masks."""
    engine, policy = make(granularity, frames, tokens)
    exact = enumerated(engine, policy, frames, tokens)
    for name, wanted, windows in zip(
        ("damage", "cost"), exact, sampled(engine, policy, frames, 60, far=1.0), strict=True
    ):
        error = windows.std(0) / math.sqrt(len(windows))
        # Costs of gates are linear in the number of tokens only roughly: `Layout.shares`.
        slack = 0.15 * wanted.abs() if (granularity, name) == ("gate", "cost") else 1e-6
        assert ((windows.mean(0) - wanted).abs() <= 4.5 * error + slack).all(), name
        assert error.norm() < 0.25 * wanted.norm(), f"{name}: too noisy to prove anything"


def test_local_credit_has_less_variance_and_the_same_direction() -> None:
    engine, policy = make("frame", 2, list(range(1, 17)))
    local, whole = (sampled(engine, policy, 2, 80, far)[0] for far in (0.0, 1.0))
    assert local.var(0).sum() < 0.5 * whole.var(0).sum()
    assert torch.cosine_similarity(local.mean(0), whole.mean(0), dim=0) > 0.7


def test_a_damage_of_the_whole_frame_is_everybodys() -> None:
    """With a metric as reward no token can be told apart: locality changes nothing."""
    engine = SelectionEngine("frame", TinyTask((3,)), reward={"kind": "metric", "weight": 0.0}, cache_mb=8)
    policy = FewTokens(engine, list(range(1, 17)))
    local, whole = (sampled(engine, policy, 2, 3, far)[0] for far in (0.0, 1.0))
    torch.testing.assert_close(local, whole)


@pytest.mark.parametrize("kind", ["fidelity", "loss"])
def test_damage_by_token_sums_to_the_frames(kind) -> None:
    class ByToken(TinyTask):
        def token_loss(self, outputs, targets):
            return self.loss(outputs, targets)[:, None] * torch.full((1, 17), 1 / 17)

    engine = SelectionEngine("frame", ByToken(), reward={"kind": kind, "weight": 0.0, "scale": 0.5})
    engine.start({0: Start(0, BUDGET), 1: Start(1, BUDGET)})
    engine.step(torch.zeros(2, 17, dtype=torch.bool))
    for score in engine.step(torch.zeros(2, 17, dtype=torch.bool)).values():
        assert score.damage_N is not None and score.damage_N.shape == (17,)
        assert float(score.damage_N.sum()) == pytest.approx(-score.reward, abs=1e-6)
        assert score.reward != 0


def test_the_price_makes_a_common_shift_stationary() -> None:
    """Damage falls by 3 per unit of logit, cost rises by 2: a unit of cost is worth 1.5."""
    policy = LearnedPolicy(gates=1, dim=4, budgets=[0.1, 0.4])
    budget_control = BudgetControl(policy, BudgetOptions(price_momentum=0.9))
    for _ in range(3):
        policy.zero_grad()
        shift = torch.zeros((), requires_grad=True)
        slope, bias = policy.log_weight_G.sum(), policy.out.bias.sum()
        budget_control.backward(-3 * shift + 5 * slope - 3 * bias, 2 * shift + 4 * slope + 2 * bias, shift)
        assert budget_control.price == pytest.approx(1.5)
        assert float(policy.log_weight_G.grad) == pytest.approx(5 + 1.5 * 4)
        assert policy.out.bias.grad is None
        assert policy.hidden.weight.grad is None
    again = BudgetControl(policy)
    again.load_state_dict(budget_control.state_dict())
    shift = torch.zeros((), requires_grad=True)
    again.backward(0 * shift, 2 * shift, shift)
    assert 0 < again.price < 1.5, "a loaded mean remembers"


def test_thresholds_follow_the_budget_at_the_knots_beside_it() -> None:
    policy = LearnedPolicy(gates=2, dim=4, budgets=[0.1, 0.2, 0.4])
    BudgetControl(policy, BudgetOptions(budget_gain=0.2)).steer(torch.tensor([0.2, 0.4]), torch.tensor([1.5, 9.0]))
    assert policy.table.log_threshold_KG[:, 0].tolist() == pytest.approx([0.0, 0.05, 0.1])
    slower = BudgetControl(policy, BudgetOptions(budget_gain=0.1))
    slower.steer(torch.tensor([math.sqrt(0.1 * 0.2)]), torch.tensor([0.0]))
    assert policy.table.log_threshold_KG[:, 1].tolist() == pytest.approx([-0.05, 0.0, 0.1], abs=1e-6)
    single = ThresholdTable([0.3], 1)
    single.nudge(torch.tensor([0.1, 0.9]), torch.tensor([1.0, 2.0]))
    assert single.log_threshold_KG.tolist() == [[3.0]]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rollouts": 1}, "rollouts"),
        ({"far": 1.5}, "far"),
        ({"discount": -1}, "discount"),
        ({"p_min": 0.5}, "p_min"),
        ({"p_min": 0.0}, "p_min"),
    ],
)
def test_wrong_options_are_named(options, match) -> None:
    with pytest.raises(ValueError, match=match):
        ReinforceOptions(**options)


def test_wrong_settings_of_the_spending_are_named() -> None:
    with pytest.raises(ValueError, match="momentum"):
        BudgetOptions(price_momentum=1.0)
