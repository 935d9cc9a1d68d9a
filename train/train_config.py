"""Settings of `eventful-train`, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from envs.damage import PRESETS, Objective, default_kind
from envs.task import VideoTask
from eventful.checks.ranges import SEED, THREADS, setting
from eventful.errors import UserError
from eventful.options import Prefix
from eventful.user_code import LEARNED
from train.config import check_settings
from train.estimators.budget_control import BudgetOptions
from train.estimators.gumbel import GumbelOptions
from train.estimators.oracle import OracleOptions
from train.estimators.protocol import WindowOptions
from train.estimators.reinforce import ReinforceOptions
from train.task_config import TaskConfig


@dataclass
class TrainConfig(BudgetOptions, WindowOptions, TaskConfig):
    """Training of a policy.

    Attributes:
        out: Folder for everything that is written.
        estimator: Gradient estimator, `gumbel` or `reinforce`.
        granularity: Decisions to make: `frame` for one per frame, or `gate` for three in every block.
        attention: Attention update with granularity `gate`.
        motion_compensation: Whether what is stale is moved along with the picture as a whole, for moving cameras.
        prefix: Whether class and register tokens are updated wherever another token is (`pinned`), or chosen like any
            other (`ordinary`), as in the published ViViT.
        policy: Class to train: `learned`, or `MODULE:CLASS` of your own `policies.TrainablePolicy` (docs/policies.md).
        policy_options: Further arguments of a class of your own, as `policy_options.NAME=VALUE`.
        hidden: Width of the learned policy's MLP.
        projections: Number of learned projections of each token's last output.
        input_projections: Number of learned projections of each token's current input.
        neighbours: Whether a further layer of the learned policy's MLP sees a token's neighbourhood.
        policy_budgets: Budgets at which the policy's thresholds are calibrated.
        objective: Weights of the kinds of damage. Where none are given: `output` 1 and `output_worst` 0.1 with
            reward=output, and for tasks that offer `output_distance`; `fidelity` 1 and `worst` 0.2 with
            reward=fidelity, and for others.
        gumbel: Settings of the Gumbel estimator.
        reinforce: Settings of the REINFORCE estimator.
        reward: What sampled masks are rewarded for (reinforce), and what the validation shows: the `objective`
            (`fidelity` is the same, but for what it stands for where no weights are given), `output`, `loss` or
            `metric`.
        saliency: Whether the learned policy sees what the consumer of the outputs cared for, if the task says so.
        saliency_exponents: Exponents of the rules that a policy may start from, log error + exponent * log(saliency +
            floor); the one with the least damage on some training clips is taken. Only for tasks with a saliency.
        saliency_floors: Floors of these rules.
        max_age: Number of frames after which a token is updated in any case; null for no bound. It holds while the
            policy is trained, calibrated and deployed.
        warm_start: Start of the training: `none`, `oracle`, or the folder of a policy checkpoint.
        oracle: Settings of the oracle warm start.
        steps: Number of windows, one optimiser step each; 0 for the warm start alone.
        streams: Number of streams side by side.
        segment: Number of windows between two checkpoints.
        lr: Peak learning rate.
        average: Weight of the past in a running mean of the weights over the windows, in [0, 1); the mean is what is
            validated and kept. 0 for the last weights.
        clip: Largest gradient norm.
        budget_min: Smallest budget in training, a share of the dense MACs.
        budget_max: Largest budget in training, a share of the dense MACs.
        calibration_streams: Number of clips on which the trained policy is set to its budgets; the calibrations before
            training use half of them.
        calibration_frames: Number of frames of each of these clips; before training, a third of them.
        minutes: Minutes of training after which it ends, at the next checkpoint; 0 for no limit.
        seed: Seed of everything random.
        device: Name of the device: `cpu`, `cuda`, ...
        threads: Number of CPU threads; torch's own choice if 0.

    Examples:
        eventful-train configs/demo.yaml out=runs/demo
        eventful-train configs/distill.yaml video=street.mp4 model=vit_small_patch14_dinov2 weights=vit.safetensors
        eventful-train configs/reinforce.yaml reward=metric seed=1 out=runs/reinforce-1
        eventful-train configs/doom.yaml steps=0 --print-config
    """

    out: str = "runs/policy"
    estimator: Literal["gumbel", "reinforce"] = "gumbel"
    granularity: Literal["gate", "frame"] = "frame"
    attention: Literal["exact", "recompute"] = field(default="exact", metadata={"read_by": ("granularity=gate",)})
    motion_compensation: bool = field(default=False, metadata={"read_by": ("granularity=frame",)})
    prefix: Prefix = field(default="pinned", metadata={"read_by": ("granularity=gate",)})
    policy: str = LEARNED
    policy_options: dict[str, Any] = field(default_factory=dict)
    hidden: int = setting(32, "[1, 4096]", read_by=(f"policy={LEARNED}",))
    projections: int = setting(16, "[0, 1024]", read_by=(f"policy={LEARNED} and granularity=frame",))
    input_projections: int = setting(16, "[0, 1024]", read_by=(f"policy={LEARNED} and granularity=frame",))
    neighbours: bool = field(default=True, metadata={"read_by": (f"policy={LEARNED}",)})
    policy_budgets: list[float] = setting([0.03, 0.05, 0.1, 0.2, 0.35, 0.5, 0.8], "(0, 1]")
    objective: Objective | None = field(
        default=None,
        metadata={"read_by": ("estimator=gumbel", "warm_start=oracle", "reward=objective", "reward=fidelity")},
    )
    gumbel: GumbelOptions = field(default_factory=GumbelOptions, metadata={"read_by": ("estimator=gumbel",)})
    reinforce: ReinforceOptions = field(
        default_factory=ReinforceOptions, metadata={"read_by": ("estimator=reinforce",)}
    )
    reward: Literal["objective", "output", "fidelity", "loss", "metric"] = "objective"
    saliency: bool = field(default=True, metadata={"read_by": (f"policy={LEARNED}",)})
    saliency_exponents: list[float] = setting([0.0, 0.5, 1.0, 2.0], "[0, 100]")
    saliency_floors: list[float] = setting([0.02, 0.1], "(0, 100]")
    max_age: int | None = setting(None, "[1, 1e6]")
    warm_start: str = "oracle"
    oracle: OracleOptions = field(default_factory=OracleOptions, metadata={"read_by": ("warm_start=oracle",)})
    steps: int = setting(200, "[0, 1e7]")
    streams: int = setting(4, "[1, 1024]")
    segment: int = setting(25, "[1, 1e6]")
    lr: float = setting(2e-3, "(0, 10]")
    average: float = setting(0.0, "[0, 1)")
    clip: float = setting(1.0, "(0, 1e6]")
    budget_min: float = setting(0.03, "(0, 1]")
    budget_max: float = setting(0.5, "(0, 1]")
    calibration_streams: int = setting(24, "[1, 1e5]")
    calibration_frames: int = setting(48, "[2, 1e5]")
    minutes: float = setting(0.0, "[0, 1e6]")
    seed: int = setting(0, SEED)
    device: str = "cpu"
    threads: int = setting(0, THREADS)


def model_options(config: TrainConfig) -> dict[str, Any]:
    """How the model is run, as arguments of `eventful.wrap`; plain data, fit for a checkpoint's provenance."""
    names = ("granularity", "attention", "motion_compensation", "prefix")
    return {name: getattr(config, name) for name in names}


def objective_of(config: TrainConfig, task: VideoTask) -> Objective:
    """What gradients are of: the weights that are given, or those that the task suggests."""
    if config.objective is not None:
        return config.objective
    kind = config.reward if config.reward in ("output", "fidelity") else default_kind(task)
    return PRESETS["output"] if kind == "output" else Objective()


def reward_of(config: TrainConfig, task: VideoTask) -> Objective:
    """What sampled masks are rewarded for."""
    return objective_of(config, task) if config.reward in ("objective", "fidelity") else PRESETS[config.reward]


def check(config: TrainConfig) -> None:
    """Refuses settings that do not fit together, or that nothing reads.

    Raises:
        UserError: Naming the setting.
    """
    check_settings(config)
    if config.policy == LEARNED and config.policy_options:
        raise UserError("policy_options are read by a policy=MODULE:CLASS of your own only (policy is learned)")
    if config.budget_min > config.budget_max:
        raise UserError(f"budget_min={config.budget_min} must not be above budget_max={config.budget_max}")
    if config.steps == 0 and config.warm_start == "none":
        raise UserError("steps=0 is for a warm start alone, and warm_start is none")
    for name in ("policy_budgets", "saliency_exponents", "saliency_floors"):
        if not getattr(config, name):
            raise UserError(f"{name} must be a list of numbers, at least one")
