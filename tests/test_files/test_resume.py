"""A training goes on from what it wrote, and from nothing else: damage and other contents end with one line."""

import dataclasses
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from train_tiny import Task

import policies
from eventful.errors import UserError
from train.estimators.budget_control import BudgetControl
from train.estimators.oracle import OracleOptions
from train.files.run_identity import RunIdentity
from train.loop.trainer import Trainer, TrainingSchedule
from train.policy import train
from train.train_config import TrainConfig


def config(out: Path) -> TrainConfig:
    return TrainConfig(
        out=str(out), task="tiny", steps=2, window=2, streams=1, segment=1, minutes=1e-9, hidden=4,
        oracle=OracleOptions(frames=2), calibration_streams=1, calibration_frames=3, policy_budgets=[0.5],
        budget_min=0.5, budget_max=0.5,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A training that was interrupted after its first step."""
    out = tmp_path_factory.mktemp("run") / "out"
    train(config(out), Task())
    return out


@pytest.fixture
def out(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "out"))


def refused(out: Path, match: str, task: Task | None = None) -> None:
    with pytest.raises(UserError, match=match) as caught:
        train(config(out), task or Task())
    assert "\n" not in str(caught.value)


def trainer_of(out: Path, policy: policies.LearnedPolicy):
    estimator = SimpleNamespace(budget_control=BudgetControl(policy))
    return Trainer(policy, estimator, None, TrainingSchedule(2, 2, 1, 1e-3, 1.0, 0), out)


def identity_of(whole: bytes, out: Path):
    saved = torch.load(io.BytesIO(whole), weights_only=True)
    return RunIdentity(saved["run"], saved["contents"])


def test_flipped_bits_in_the_training_state_are_noticed_or_harmless(out: Path) -> None:
    path = out / "training.pt"
    whole, noticed = path.read_bytes(), 0
    state = policies.load(out / "heuristic")
    want = torch.load(path, weights_only=True)["policy"]
    trainer = trainer_of(out, state)
    for k in range(7, len(whole), len(whole) // 60):
        flipped = bytearray(whole)
        flipped[k] ^= 1 << k % 8
        path.write_bytes(flipped)
        try:
            assert trainer.resume(identity_of(whole, out))
        except UserError as error:
            assert "is damaged" in str(error)
            noticed += 1
            continue
        assert all(torch.equal(value, want[name]) for name, value in state.state_dict().items()), k
    assert noticed > 10


def test_a_state_without_checksum_and_contents_goes_on(out: Path) -> None:
    saved = torch.load(out / "training.pt", weights_only=True)
    assert saved.pop("sha256") and saved.pop("contents")
    torch.save(saved, out / "training.pt")
    train(config(out), Task())
    assert torch.load(out / "training.pt", weights_only=True)["step"] == 2


@pytest.mark.parametrize(
    "change", [lambda s: s.pop("optimizer"), lambda s: s.update(run=[]), lambda s: s.update(step={})]
)
def test_states_that_lack_something_are_damaged(out: Path, change) -> None:
    saved = torch.load(out / "training.pt", weights_only=True)
    del saved["sha256"]
    change(saved)
    torch.save(saved, out / "training.pt")
    refused(out, r"training\.pt is damaged")


def test_a_state_that_is_no_table_is_damaged(out: Path) -> None:
    torch.save([1, 2], out / "training.pt")
    refused(out, r"training\.pt is damaged")


def test_other_weights_and_other_footage_are_refused(out: Path) -> None:
    task = Task()
    with torch.no_grad():
        task.model.norm.weight[0] += 1e-3
    refused(out, "was trained with other contents of: the model's weights; bring back", task)

    class Elsewhere(Task):
        def clips(self, split):
            clips = super().clips(split)
            if split == "val":
                clips[0] = dataclasses.replace(clips[0], frames_THWC=clips[0].frames_THWC.clone())
                clips[0].frames_THWC[3, 0, 0, 0] ^= 1
            return clips

    refused(out, "other contents of: the footage of split val;", Elsewhere())


def test_another_heuristic_is_refused_and_a_damaged_one_named(out: Path) -> None:
    kept = policies.load(out / "heuristic")
    kept.table.log_threshold_KG += 1
    kept.save_pretrained(out / "heuristic")
    refused(out, r"other contents of: the policy that it started from \(heuristic\);")
    (out / "heuristic" / "model.safetensors").unlink()
    refused(out, rf"out={out}: what the interrupted run started from: .*heuristic has no model.safetensors")
    (out / "heuristic" / "config.json").write_text("[")
    refused(out, "what the interrupted run started from: .*has no model.safetensors")
    shutil.rmtree(out / "heuristic")
    train(config(out), Task())
    assert json.loads((out / "heuristic" / "config.json").read_text())["gates"] == 1


@pytest.mark.parametrize("line", ["[1]", '{"step": 0}', "{", "[" * 100_000])
def test_a_damaged_history_is_named(out: Path, line: str) -> None:
    (out / "history.jsonl").write_text(line + "\n")
    refused(out, r"history\.jsonl is damaged")
