"""Settings of `eventful-train`, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from eventful.errors import UserError
from train.config import TaskConfig


@dataclass
class ObjectiveConfig:
    """Weights of the loss terms.

    Attributes:
        fidelity: Of the mean distance of the final tokens to the dense model's.
        worst: Of the mean distance of the 20 worst tokens.
        task: Of the task loss above the dense model's.
    """

    fidelity: float = 1.0
    worst: float = 0.2
    task: float = 0.0


@dataclass
class TrainConfig(TaskConfig):
    """Training of a policy.

    Attributes:
        out: Folder for everything that is written.
        estimator: `gumbel` or `reinforce`.
        granularity: `frame`, one decision per frame, or `gate`, three in every block.
        attention: Attention update with granularity `gate`.
        hidden: Width of the policy's MLP.
        projections: Learned projections of each token's last output (granularity `frame`).
        policy_budgets: Budgets at which the policy's thresholds are calibrated.
        objective: Weights of the loss terms.
        budget_gain: How far thresholds move per window to bring the mean spending to the budget, in log threshold per
            relative excess.
        price_momentum: Of the running means from which the price of a MAC follows, per window.
        temperature: Of the relaxed decisions (gumbel).
        sharpness: Logits per unit of score.
        noise: Draw masks during training (gumbel).
        reward: What sampled masks are rewarded for (reinforce), and what the validation shows: `fidelity` (with the
            objective's weight of the worst tokens), `loss` or `metric`.
        rollouts: Rollouts from each state (reinforce).
        discount: Of later rewards, per frame (reinforce).
        far: Share of what happens at distant tokens that a decision answers for; 1 is unbiased (reinforce).
        entropy: Weight of the mean entropy per decision (reinforce).
        p_min: Probabilities of decisions stay within [p_min, 1 - p_min] (reinforce).
        warm_start: `none`, `oracle`, or the folder of a policy checkpoint.
        oracle_frames: Frames of the oracle warm start.
        oracle_lr: Its learning rate.
        steps: Windows, one optimiser step each.
        window: Frames of a window.
        streams: Streams side by side.
        segment: Windows between two checkpoints.
        lr: Peak learning rate.
        clip: Largest gradient norm.
        budget_min: Smallest budget in training.
        budget_max: Largest budget in training.
        calibration_streams: Clips on which the trained policy is set to its budgets; the calibrations before training
            use half of them.
        calibration_frames: Frames of each; before training, a third of them.
        minutes: End training after this long in total, at the next checkpoint; 0 for no limit.
        seed: Of everything random.
        device: `cpu`, `cuda`, ...
        threads: Of the CPU; 0 for torch's own choice.
    """

    out: str = "runs/policy"
    estimator: Literal["gumbel", "reinforce"] = "gumbel"
    granularity: Literal["gate", "frame"] = "frame"
    attention: Literal["exact", "recompute"] = "exact"
    hidden: int = 32
    projections: int = 8
    policy_budgets: list[float] = field(default_factory=lambda: [0.03, 0.05, 0.1, 0.2, 0.35, 0.5, 0.8])
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    budget_gain: float = 0.4
    price_momentum: float = 0.9
    temperature: float = 2 / 3
    sharpness: float = 4.0
    noise: bool = True
    reward: Literal["fidelity", "loss", "metric"] = "fidelity"
    rollouts: int = 4
    discount: float = 0.9
    far: float = 0.1
    entropy: float = 1e-3
    p_min: float = 0.01
    warm_start: str = "oracle"
    oracle_frames: int = 200
    oracle_lr: float = 3e-3
    steps: int = 200
    window: int = 8
    streams: int = 4
    segment: int = 25
    lr: float = 2e-3
    clip: float = 1.0
    budget_min: float = 0.03
    budget_max: float = 0.5
    calibration_streams: int = 24
    calibration_frames: int = 48
    minutes: float = 0.0
    seed: int = 0
    device: str = "cpu"
    threads: int = 0


def check(config: TrainConfig) -> None:
    """Refuses settings that do not fit together.

    Raises:
        UserError: Naming the setting.
    """
    if not 0 < config.budget_min <= config.budget_max <= 1:
        raise UserError(
            f"budget_min and budget_max must satisfy 0 < min <= max <= 1, got {config.budget_min}, {config.budget_max}"
        )
    for name in ("steps", "window", "streams", "segment", "calibration_streams", "calibration_frames", "oracle_frames"):
        if getattr(config, name) < 1:
            raise UserError(f"{name} must be at least 1, got {getattr(config, name)}")
    if config.calibration_frames < 2:
        raise UserError("calibration_frames must be at least 2: the first frame is a flush")
