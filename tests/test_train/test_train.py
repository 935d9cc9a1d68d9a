"""Training: exact resume, gradients of both estimators, calibration, what the commands write."""

from pathlib import Path

import pytest
import torch
from train_tiny import Task

import eventful
import policies
from envs.damage import Objective
from envs.engine import SelectionEngine
from eventful.errors import UserError
from policies import All, CalibratedThreshold, LearnedPolicy, Selection
from train.calibration import calibrate, calibration_frames, fit_table, install, realised_share
from train.estimators.budget_control import BudgetControl
from train.estimators.gumbel import GumbelEstimator, GumbelOptions
from train.estimators.oracle import OracleOptions
from train.estimators.protocol import WindowOptions, differentiable_meter
from train.estimators.reinforce import ReinforceEstimator, ReinforceOptions
from train.estimators.streams import StreamSource
from train.loop import history
from train.policy import TrainConfig
from train.policy import train as train_on


def tiny_config(out: Path, **changes) -> TrainConfig:
    settings = dict(
        out=str(out), task="tiny", steps=4, window=3, streams=2, segment=2, oracle=OracleOptions(frames=6),
        calibration_streams=2, calibration_frames=6, policy_budgets=[0.2, 0.6], budget_min=0.2, budget_max=0.6,
        hidden=8,
    )  # fmt: skip
    return TrainConfig(**{**settings, **changes})


def train(config: TrainConfig) -> Path:
    return train_on(config, Task())


@pytest.mark.parametrize("estimator", ["gumbel", "reinforce"])
@pytest.mark.parametrize("granularity", ["frame", "gate"])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path, estimator, granularity) -> None:
    kind = {"estimator": estimator, "granularity": granularity}
    if estimator == "reinforce":
        kind |= {"reinforce": ReinforceOptions(rollouts=2), "average": 0.5}
    whole = policies.load(train(tiny_config(tmp_path / "whole", **kind)))
    train(tiny_config(tmp_path / "parts", **kind, minutes=1e-9))
    assert torch.load(tmp_path / "parts" / "training.pt", weights_only=True)["step"] == 2
    parts = policies.load(train(tiny_config(tmp_path / "parts", **kind)))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    looks = [history.read(tmp_path / name) for name in ("whole", "parts")]
    assert [look["step"] for look in looks[0]] == [0, 2, 4]
    assert [look["points"] for look in looks[0]] == [look["points"] for look in looks[1]]
    heuristic = policies.load(tmp_path / "whole" / "heuristic")
    assert not torch.equal(whole.out.weight, heuristic.out.weight), "training must have moved the policy"
    assert (whole.provenance.task, whole.provenance.task_options) == ("tiny", {})
    assert list((tmp_path / "whole" / "tensorboard").iterdir())


def test_without_steps_the_policy_is_what_the_oracle_taught(tmp_path) -> None:
    taught = policies.load(train(tiny_config(tmp_path, steps=0, warm_start="oracle", oracle=OracleOptions(frames=3))))
    heuristic = policies.load(tmp_path / "heuristic")
    assert not torch.equal(taught.out.weight, heuristic.out.weight)
    assert [look["step"] for look in history.read(tmp_path)] == [0]


def test_the_running_mean_of_the_weights_is_what_is_kept(tmp_path) -> None:
    passed = []
    for _ in range(3):
        train(tiny_config(tmp_path / "last", steps=3, segment=1, minutes=1e-9))
        passed.append(torch.load(tmp_path / "last" / "training.pt", weights_only=True)["policy"]["out.weight"])
    kept = policies.load(train(tiny_config(tmp_path / "mean", steps=3, segment=1, average=0.75)))
    expected = 0.75 * (0.75 * passed[0] + 0.25 * passed[1]) + 0.25 * passed[2]
    torch.testing.assert_close(kept.out.weight.detach(), expected)
    assert not torch.allclose(kept.out.weight, passed[2]), "the steps must differ for this to show anything"


def test_resuming_with_other_settings_or_a_damaged_checkpoint_is_refused(tmp_path) -> None:
    train(tiny_config(tmp_path, steps=2))
    with pytest.raises(UserError, match=r"other settings \(lr\)"):
        train(tiny_config(tmp_path, steps=2, lr=0.5))
    (tmp_path / "training.pt").write_bytes(b"torn")
    with pytest.raises(UserError, match="is damaged"):
        train(tiny_config(tmp_path, steps=2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget_min": 0.7}, "budget_min=0.7 must not be above budget_max"),
        ({"steps": 0, "warm_start": "none", "oracle": OracleOptions()}, "steps=0 is for a warm start alone"),
        ({"average": 1.0}, "average must be below 1"),
        ({"warm_start": "nowhere", "oracle": OracleOptions()}, "warm_start=nowhere: no policy checkpoint"),
        ({"device": "quantum"}, "device=quantum"),
        ({"policy_budgets": [0.5, 0.2]}, "must ascend"),
        ({"clip_length": 8}, "clip_length: options are for a task given by name, but the task itself is given"),
        ({"task": "distill"}, "task=distill: the task itself is given, and its name is 'tiny'"),
        ({"policy_options": {"rows": 3}}, "policy_options are read by a policy=MODULE:CLASS of your own only"),
        ({"granularity": "gate", "projections": 4}, r"projections is read by .*granularity=frame only \(.* is gate\)"),
    ],
)
def test_bad_settings_are_named(tmp_path, changes, message) -> None:
    with pytest.raises(UserError, match=message):
        train(tiny_config(tmp_path, **changes))


def test_task_objective_needs_labels() -> None:
    task = Task(has_labels=False)
    with pytest.raises(ValueError, match="does not have"):
        differentiable_meter(task, eventful.wrap(task.model, All()), Objective(task=1.0))


@pytest.mark.parametrize("granularity", ["frame", "gate"])
def test_calibrated_thresholds_spend_their_budgets(granularity) -> None:
    task = Task()
    model = eventful.wrap(task.model, All(), granularity=granularity)
    frames = calibration_frames(task, task.clips("train"), streams=4, frames=12)
    noise = torch.Generator().manual_seed(9)
    frames = [frame + 0.1 * torch.randn(frame.shape, generator=noise) for frame in frames]
    found = calibrate(model, frames, [0.2, 0.5])
    for budget in (0.2, 0.5):
        policy = CalibratedThreshold(found.table, budget)
        assert realised_share(model, frames, policy.select) == pytest.approx(budget, rel=0.08)
    learned = LearnedPolicy(model.layout(frames[0]).gates, 32, granularity, budgets=[0.2, 0.5])
    install(learned, found)
    torch.nn.init.constant_(learned.out.bias, 0.7)
    fit_table(model, frames, learned)
    learned.budget = 0.5
    assert realised_share(model, frames, learned.select) == pytest.approx(0.5, rel=0.15)


def test_gumbel_gradient_is_that_of_the_blended_forward_pass() -> None:
    """Without noise, at one gate of one frame: dL/dscore = dL/dm * dm/dscore, dL/dm by finite differences."""
    task = Task()
    model = eventful.wrap(task.model, All(), granularity="frame")
    frames = calibration_frames(task, task.clips("train"), streams=1, frames=2)
    objective = Objective(fidelity=1.0, worst=0.0)
    meter = differentiable_meter(task, model, objective)
    mask_N = 0.05 + 0.9 * (torch.arange(17) % 3 == 0).float()

    def value(mask: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            _, state = eventful.drive(model.decisions(frames[0], None, masked=True), lambda _: None)
        features, _ = eventful.drive(
            model.decisions(frames[1], state, masked=True), lambda _: Selection(mask_BN=mask[None])
        )
        return objective.of_frame(meter.damage(meter.outcome(features, []), meter.dense(frames[1], []))).sum()

    mask = mask_N.clone().requires_grad_()
    value(mask).backward()
    for token in (2, 7):
        step = torch.zeros(17)
        step[token] = 1e-2
        numeric = (value(mask_N + step) - value(mask_N - step)) / 2e-2
        assert float(mask.grad[token]) == pytest.approx(float(numeric), rel=0.05, abs=1e-5)


class FreeLogits(LearnedPolicy):
    """Scores that ignore what is seen: a free logit for every token, above the threshold of the budget."""

    def __init__(self) -> None:
        super().__init__(gates=1, dim=32, budgets=[0.2, 0.5])
        self.logit_N = torch.nn.Parameter(torch.zeros(17))

    def score(self, observation, budget_B=None):
        return self.logit_N - self.table(observation.gate, budget_B)[:, None]


@pytest.mark.parametrize("estimator", ["gumbel", "reinforce"])
def test_both_estimators_find_the_best_mask_of_a_toy_stream(estimator) -> None:
    """Only one row of patches ever changes; the best mask at a budget of a quarter updates these tokens alone."""
    task = Task(has_labels=False)
    clips = [clip for clip in task.clips("train")]
    for clip in clips:
        noise = torch.randint(0, 255, (len(clip), 8, 32, 3), generator=torch.Generator().manual_seed(1)).byte()
        clip.frames_THWC[:] = clip.frames_THWC[:1]
        clip.frames_THWC[:, 8:16] = noise
    task.clips = lambda split: clips
    policy, windows = FreeLogits(), WindowOptions(window=3, sharpness=1.0)
    source = StreamSource(clips, range(4), (0.3, 0.3))
    if estimator == "gumbel":
        model = eventful.wrap(task.model, policy, granularity="frame")
        objective, options = Objective(worst=0.0), GumbelOptions()
        made = GumbelEstimator(task, model, policy, objective, source, BudgetControl(policy), windows, options)
    else:
        engine = SelectionEngine("frame", task, policy=policy, reward={"kind": "fidelity", "weight": 0.0})
        options = ReinforceOptions(rollouts=8, discount=0.5)
        made = ReinforceEstimator(engine, policy, source, BudgetControl(policy), windows, options)
    optimizer = torch.optim.Adam([policy.logit_N], lr=0.2)
    made.begin("toy")
    for _ in range(60):
        optimizer.zero_grad()
        made.window()
        optimizer.step()
    changing = set(range(1 + 4, 1 + 8))
    assert set(policy.logit_N.detach()[1:].topk(4).indices.add(1).tolist()) == changing
    score_N = policy.logit_N.detach() - policy.table(0, torch.tensor([0.3]))
    assert score_N[5:9].min() > 0, "the budget pays for these"
    assert score_N[1:5].max() < 0 and score_N[9:].max() < 0, "and for no more"


@pytest.mark.parametrize("estimator", ["gumbel", "reinforce"])
def test_a_bound_on_age_holds_in_training_calibration_and_deployment(tmp_path, estimator) -> None:
    kind = {"reinforce": ReinforceOptions(rollouts=2)} if estimator == "reinforce" else {}
    folder = train(tiny_config(tmp_path, estimator=estimator, max_age=3, policy_budgets=[0.6, 0.8], **kind))
    policy, task = policies.load(folder), Task()
    assert policy.max_age == 3 and policies.load(tmp_path / "heuristic").max_age == 3
    model = eventful.wrap(task.model, policy, granularity="frame")
    frames, policy.budget = calibration_frames(task, task.clips("train"), 2, 6), 0.6
    assert realised_share(model, frames, policy.select) == pytest.approx(0.6, rel=0.25)
    with torch.inference_mode():
        for frame in frames:
            model(frame)
            assert model.state.ages().max() <= 2
    with pytest.raises(UserError, match="max_age must be at least 1"):
        train(tiny_config(tmp_path, max_age=0))
