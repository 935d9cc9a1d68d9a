"""The examples of docs/environments.md run as they stand there, on a tiny task and for fewer steps."""

import re
from pathlib import Path

import pytest
import torch
from tiny_task import TinyTask

import envs.engine

DOCS = Path(__file__).parents[2] / "docs" / "environments.md"


def test_the_examples_run(monkeypatch, capsys, tmp_path):
    pytest.importorskip("stable_baselines3")
    monkeypatch.setattr(envs.engine, "load_task", lambda name, **options: TinyTask())
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL))
    assert "100_000" in code
    space = {}
    # Shorter: 64 steps of learning in rollouts of 64.
    code = code.replace("100_000", "64").replace('PPO("MlpPolicy", env)', 'PPO("MlpPolicy", env, n_steps=64)')
    exec(compile(code, "docs/environments.md", "exec"), space)
    assert space["policy"](0.4).budget == 0.4
    assert "SB3-PPO" in capsys.readouterr().out
    # 4 streams, 20 steps each, less the resets.
    assert 60 <= len(space["transitions"]) < 80
    assert space["scorer"].out.weight.grad.abs().sum() > 0
