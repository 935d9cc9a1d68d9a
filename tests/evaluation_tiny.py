"""Small evaluations: an untrained policy, settings that take seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from squares_task import Squares

import eventful
from policies import All, LearnedPolicy
from train.evaluate_config import EvaluateConfig


def checkpoint(task: Squares, folder: Path, granularity: str = "frame", seed: int = 0) -> str:
    """An untrained policy with a little noise in its last layer."""
    model = eventful.wrap(task.model, All(), granularity=granularity)
    layout = model.layout(task.preprocess(task.clips("test")[0].frames_THWC[:1]))
    policy = LearnedPolicy(layout.gates, layout.dim, granularity, provenance={"task": {"name": "squares"}})
    torch.nn.init.normal_(policy.out.weight, std=0.01, generator=torch.Generator().manual_seed(seed))
    policy.table.log_threshold_KG.copy_(-policy.table.log_budget_K[:, None].expand(-1, layout.gates) - 1.5)
    policy.save_pretrained(folder)
    return str(folder)


def config(tmp_path: Path, **changes: Any) -> EvaluateConfig:
    settings: dict[str, Any] = {
        "task": "squares",
        "out": str(tmp_path / "out"),
        "budgets": [0.2, 0.5],
        "policies": ["TopR", "Periodic"],
        "bootstrap": 20,
        "calibration_streams": 3,
        "calibration_frames": 8,
        "latency": False,
        "plots": False,
    }
    return EvaluateConfig(**(settings | changes))
