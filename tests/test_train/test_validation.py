"""Looking at a policy in training: equal compute, known rewards; histories and learning curves."""

import json

import pytest
import torch
from train_tiny import Task

from envs.engine import SelectionEngine
from eventful.errors import UserError
from policies import LearnedPolicy
from train import curves
from train.curves import Curve, read_curves, table
from train.loop import history
from train.loop.validation import Validation, as_rows


def policy_of(engine: SelectionEngine) -> LearnedPolicy:
    policy = LearnedPolicy(1, engine.layout.dim, budgets=[0.2, 0.8])
    policy.table.log_threshold_KG.copy_(torch.tensor([[0.5], [-1.0]]))
    return policy


def test_policies_are_compared_at_equal_compute() -> None:
    """However far a policy's thresholds have drifted; and a policy that ranks tokens the wrong way round earns less."""
    engine = SelectionEngine("frame", Task(), split="val", reward={"kind": "fidelity", "weight": 0.0, "scale": 1.0})
    heuristic, drifted, contrary = (policy_of(engine) for _ in range(3))
    drifted.table.log_threshold_KG += 3.0
    with torch.no_grad():
        contrary.log_weight_G.fill_(-20.0)
        torch.nn.init.zeros_(contrary.hidden.weight)
        contrary.hidden.weight[:, 0] = -1.0  # minus the error
        contrary.out.weight.fill_(1.0)
    found = {}
    for name, policy in (("drifted", drifted), ("contrary", contrary)):
        points = Validation(engine, policy, heuristic, budgets=(0.2, 0.3), streams=4, frames=8).points()
        found[name] = points["learned"]
        found["heuristic"] = points["heuristic"]
    for k, budget in enumerate((0.2, 0.3)):
        assert found["heuristic"][k].share == pytest.approx(budget, rel=0.2)
        assert found["drifted"][k].share == pytest.approx(found["heuristic"][k].share, rel=0.1)
        assert found["drifted"][k].reward == pytest.approx(found["heuristic"][k].reward, rel=0.2)
        assert found["contrary"][k].reward < found["heuristic"][k].reward
    assert float(drifted.table.log_threshold_KG[0]) == 3.5, "looking changes nothing"
    assert as_rows({"learned": found["drifted"]})[1]["budget"] == 0.3


def write(folder, rewards, heuristic=-2.0) -> None:
    folder.mkdir()
    lines = []
    for k, reward in enumerate(rewards):
        points = [
            {"policy": name, "budget": 0.1, "share": 0.1, "reward": value, "distance": 0.0}
            for name, value in (("learned", reward), ("heuristic", heuristic))
        ]
        lines.append(json.dumps({"step": k, "minutes": 1.5 * k, "points": points}))
    (folder / "history.jsonl").write_text("\n".join(lines) + "\n")


def test_curves_say_when_the_heuristic_is_overtaken_for_good() -> None:
    minutes = [0.0, 1.0, 2.0, 3.0]
    assert Curve(minutes, [-3, -1, -3, -1], -2).overtaken == 3.0
    assert Curve(minutes, [-1, -1, -1, -1], -2).overtaken == 0.0
    assert Curve(minutes, [-1, -1, -1, -2], -2).overtaken is None


def test_curves_are_tabled_and_drawn(tmp_path, capsys) -> None:
    write(tmp_path / "a", [-2.0, -1.5, -1.0])
    write(tmp_path / "b", [-2.0, -2.5, -1.2])
    runs = f"runs.REINFORCE=[{tmp_path / 'a'},{tmp_path / 'b'}]"
    curves._main([runs, f"out={tmp_path / 'curves.png'}"])
    printed = capsys.readouterr().out
    assert "| 0.1 | REINFORCE | -1.0000, -1.2000 | -1.1000 ± 0.1414 | 1.5, 3.0 |" in printed
    assert "| 0.1 | calibrated threshold | -2.0000 |" in printed
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert "0.1" in table({"x": [read_curves(tmp_path / "a")]})


def test_histories_go_on_and_damage_is_named(tmp_path) -> None:
    first = history.History(tmp_path, 0)
    for step in (0, 2, 4):
        first.add(step, 60.0 * step, [])
    history.History(tmp_path, 2).add(3, 180.0, [])
    assert [(row["step"], row["minutes"]) for row in history.read(tmp_path)] == [(0, 0), (2, 2), (3, 3)]
    with pytest.raises(UserError, match="no runs"):
        curves._main([])
    with pytest.raises(UserError, match="has not begun"):
        read_curves(tmp_path)
    with pytest.raises(UserError, match="no runs"):
        curves._main(["runs.X=[]"])
    (tmp_path / "history.jsonl").write_text("torn{\n")
    with pytest.raises(UserError, match="is damaged"):
        read_curves(tmp_path)
