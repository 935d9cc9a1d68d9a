"""The configs for ImageNet VID and Doom VID, from files to tables and policies, with small models."""

import csv
import json
from pathlib import Path

import pytest
from vitdet_tiny import TINY, squares

import eventful.infer
from envs.doom.export import CLASSES
from envs.vid import VID_CLASSES
from envs.vid.write import write_official
from envs.vitdet.weights import facts_of
from train import evaluate, policy
from train.paper import detection
from train.paper.published import PUBLISHED
from train.vitdet import train as vitdet

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = ["canvas=64", "proposals=4", f"architecture={json.dumps(TINY | {'channels': 16, 'hidden': 32})}"]
CALIBRATION = ["calibration_streams=2", "calibration_frames=3"]
FEW = ["oracle.frames=4", "policy_budgets=[0.5]", "budget_min=0.5", "budget_max=0.6", *CALIBRATION]


def run(command, *argv):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["command", *map(str, argv)])
        with pytest.raises(SystemExit) as end:
            command()
    return end.value.code


def evaluated(out, *options):
    measured = [f"policy={out / 'policy'}", "policies=[Learned,TopR]", "budgets=[0.5]", "bootstrap=5", *CALIBRATION]
    left_out = ["plots=false", "latency=false", f"out={out / 'evaluation'}"]
    return run(evaluate.main, CONFIGS / "evaluate.yaml", *measured, *left_out, *options)


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_tables_of_detection(size, official, tmp_path, capsys):
    # The rows are those of the config: rules of more tokens than there are select them all.
    options = [f"root={official}", *SMALL, f"out={tmp_path / 'table'}"]
    assert run(detection.main, CONFIGS / f"vid_{size}.yaml", *options) == 0, capsys.readouterr().err
    with (tmp_path / "table/table.csv").open() as file:
        rows = {row["row"]: float(row["G"]) for row in csv.DictReader(file)}
    assert set(PUBLISHED[size]) <= set(rows)
    assert all(0 < giga <= 1.1 * rows["dense"] for giga in rows.values())


def test_a_detector_and_a_policy_for_doom(tmp_path, capsys):
    root, out = tmp_path / "doom_vid", tmp_path / "run"
    for split, seeds in {"detector": (0, 1), "train": (2, 3), "val": (4, 5), "test": (6, 7)}.items():
        write_official(root, split, [squares(f"{split}-{seed}", seed, frames=4) for seed in seeds], CLASSES)
    short = ["steps=2", "batch=2", "warmup=1", "anchors=16", "boxes=8", "backbone.weights=null"]
    options = [f"root={root}", *SMALL, *short, f"out={out}"]
    assert run(vitdet.main, CONFIGS / "vitdet_doom.yaml", *options) == 0, capsys.readouterr().err
    weights = out / "vitdet.safetensors"
    assert facts_of(weights).classes == list(CLASSES.names) and "| test | 8 |" in (out / "README.md").read_text()

    options = [f"weights={weights}", f"task_options.root={root}", *FEW, f"out={out}"]
    assert run(policy.main, CONFIGS / "vid_doom.yaml", *options) == 0, capsys.readouterr().err
    assert evaluated(out) == 0, capsys.readouterr().err
    assert "mAP50" in (out / "evaluation/table.md").read_text()
    frames = root / "Data/VID/test/test-6"
    (first, *_) = eventful.infer.run(frames, out / "policy", "vid", {"weights": str(weights)}, max_frames=2)
    assert first.flush


@pytest.mark.parametrize("estimator", ["gumbel", "reinforce"])
def test_a_policy_for_the_published_detector(estimator, tmp_path, capsys):
    root, out = tmp_path / "vid", tmp_path / "run"
    for split, seeds in {"train": (2, 3), "val": (4, 5)}.items():
        write_official(root, split, [squares(f"{split}-{seed}", seed, frames=4) for seed in seeds], VID_CLASSES)
    small = ["task_options.canvas=64", "task_options.proposals=4", f"task_options.architecture={json.dumps(TINY)}"]
    small += ["task_options.frame_size=[80,128]", "window=2", "steps=1"]
    options = [f"task_options.root={root}", f"estimator={estimator}", *small, *FEW, f"out={out}"]
    assert run(policy.main, CONFIGS / "vid_policy.yaml", *options) == 0, capsys.readouterr().err
    assert evaluated(out, "task_options.frame_size=null", "max_clips=null") == 0, capsys.readouterr().err
    assert "mAP50" in (out / "evaluation/table.md").read_text()
