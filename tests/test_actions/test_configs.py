"""The configs for EPIC-KITCHENS-100 and Kinetics-400, from their files to tables and policies, with small models."""

import csv
import shutil
from pathlib import Path

import pytest
import torch

import eventful.infer
from envs.vivit.weights import ViViTSizes, save_vivit
from train import evaluate, policy
from train.paper import actions

CONFIGS = Path(__file__).parents[2] / "configs"
CLASSES = {"epic": 97, "kinetics": 400}


@pytest.fixture
def weights(tmp_path):
    """Writes a small ViViT for a set of videos."""

    def write(data, name):
        torch.manual_seed(0)
        path = tmp_path / f"{name}.safetensors"
        save_vivit(ViViTSizes(48, CLASSES[data], 8, 24, 2, 2, 1).on(torch.device("cpu")), path)
        return path

    return write


def run(command, *argv):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["command", *map(str, argv)])
        with pytest.raises(SystemExit) as end:
            command()
    return end.value.code


@pytest.mark.parametrize(
    ("data", "tuned", "clips"),
    [("epic", {"tuned_200": 5, "tuned_100": 3, "tuned_50": 2}, 3), ("kinetics", {"tuned_96": 5, "tuned_48": 3}, 3)],
)
def test_the_tables_of_actions(data, tuned, clips, weights, tmp_path, request):
    root, out = request.getfixturevalue(data), tmp_path / "table"
    names = ["original", *tuned]
    given = [f"weights.{name}={weights(data, name)}" for name in names]
    rows = [f"rows.{name}=[{r}]" for name, r in tuned.items()] + ["rows.original=[dense]"]
    left_out = ["weights.tuned_24=null"] if data == "kinetics" else []
    options = [f"data_options.root={root}", *given, *rows, *left_out, f"out={out}", f"cache={tmp_path / 'cache'}"]
    assert run(actions.main, CONFIGS / f"{data}.yaml", *options) == 0
    with (out / "table.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [row["weights"] for row in found] == names and {row["videos"] for row in found} == {str(clips)}
    assert all(0 < float(row["tera"]) < float(found[0]["tera"]) for row in found[1:])
    assert "published" not in (out / "table.md").read_text(), "a small model has no published figures"


def test_a_policy_for_epic(epic, weights, tmp_path, capsys):
    shutil.copy(epic / "EPIC_100_validation.csv", epic / "EPIC_100_train.csv")
    path, out = weights("epic", "vivit"), tmp_path / "run"
    small = ["oracle.frames=4", "streams=2", "window=2", "steps=1", "policy_budgets=[0.5]", "budget_min=0.5"]
    small += ["budget_max=0.6", "calibration_streams=2", "calibration_frames=4", "task_options.frame_size=[24,32]"]
    trained = [f"weights={path}", f"task_options.root={epic}", *small, f"out={out}"]
    assert run(policy.main, CONFIGS / "epic_policy.yaml", *trained) == 0, capsys.readouterr().err
    measured = [f"policy={out / 'policy'}", "policies=[Learned,TopR]", "budgets=[0.5]", "bootstrap=5", "latency=false"]
    measured += ["calibration_frames=4", "calibration_streams=2", "plots=false", f"out={out / 'evaluation'}"]
    options = ["task_options.frame_size=null", "max_clips=null"]
    assert run(evaluate.main, CONFIGS / "evaluate.yaml", *measured, *options) == 0, capsys.readouterr().err
    assert "top-1" in (out / "evaluation/table.md").read_text()
    video = epic / "videos/P01_11.MP4"
    (first, *_) = eventful.infer.run(video, out / "policy", "actions", {"weights": str(path)}, max_frames=2)
    assert first.flush and len(first.predictions) == 5
