"""Both estimators train policies of models whose features are maps."""

from pathlib import Path

import pytest
import torch
from family_zoo import build, clip

import policies
from envs.task import Clip, freeze
from train.policy import train
from train.train_config import TrainConfig


class Maps:
    """A task without labels around a model of the zoo."""

    name, metric_name, has_labels, class_names = "maps", "fidelity", False, ()

    def __init__(self, family: str) -> None:
        self.model = freeze(build(family))

    def clips(self, split: str) -> list[Clip]:
        return [self._clip(f"{split}-{seed}", seed) for seed in range(3)]

    def _clip(self, name: str, seed: int) -> Clip:
        frames_TCHW = torch.cat(clip(8, seed=seed))
        return Clip(name, (frames_TCHW.permute(0, 2, 3, 1) * 40 + 128).clamp(0, 255).to(torch.uint8))

    def preprocess(self, frames_BHWC: torch.Tensor) -> torch.Tensor:
        return (frames_BHWC.permute(0, 3, 1, 2).float() - 128) / 40

    def loss(self, outputs, targets):
        raise ValueError("there are no labels")

    def metric(self):
        return None

    def predictions(self, outputs, frame_size):
        return [[] for _ in outputs]


@pytest.mark.parametrize("granularity", ["frame", "gate"])
@pytest.mark.parametrize("estimator", ["gumbel", "reinforce"])
@pytest.mark.parametrize("family", ["SAM image encoder", "ViTDet, pooled keys"])
def test_models_with_maps_train(family: str, estimator: str, granularity: str, tmp_path: Path) -> None:
    config = TrainConfig(
        out=str(tmp_path), task="maps", estimator=estimator, granularity=granularity, steps=3, window=2, streams=2,
        segment=3, calibration_streams=2, calibration_frames=6, policy_budgets=[0.2, 0.6],
        budget_min=0.2, budget_max=0.6, lr=0.05, warm_start="oracle" if estimator == "gumbel" else "none",
    )  # fmt: skip
    trained = policies.load(train(config, Maps(family)))
    start = policies.load(tmp_path / "heuristic")
    assert not torch.equal(trained.out.weight, start.out.weight)
    assert all(value.isfinite().all() for value in trained.state_dict().values())
