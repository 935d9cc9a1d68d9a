"""Model cards: made from an evaluation, kept by what is saved and pushed; a policy in another backbone says so."""

from __future__ import annotations

import json
import logging
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_tiny import checkpoint, config
from huggingface_hub import ModelCard, hub_mixin
from squares_task import Squares
from train_tiny import Task

import policies
from envs.damage import Objective
from eventful.checks.backbone import backbone_hash, warn_of_other_backbone
from eventful.errors import UserError
from eventful.infer.on_video import prepare
from eventful.trust import note_trained_here, trained_here
from policies import Provenance
from train.card.__main__ import CardConfig, write_card
from train.config import command_line, load_config
from train.estimators.oracle import OracleOptions
from train.evaluate import evaluate
from train.evaluate_config import EvaluateConfig
from train.policy import train
from train.train_config import TrainConfig

BACKBONE = "12" * 32


@pytest.fixture
def task() -> Squares:
    return Squares()


@pytest.fixture
def evaluated(task: Squares, tmp_path: Path) -> CardConfig:
    """Two checkpoints of one training, in one evaluation."""
    folders = [checkpoint(task, tmp_path / name, seed=seed) for seed, name in enumerate(("first", "second"))]
    evaluate(config(tmp_path, policy=folders, policies=["Learned", "TopR"]), task)
    return CardConfig(folders[0], str(tmp_path / "out"))


def test_a_card_has_what_the_evaluation_found(task: Squares, evaluated: CardConfig) -> None:
    path = write_card(evaluated)
    text, policy = path.read_text(), policies.load(evaluated.policy)
    card = ModelCard(text)
    assert card.data.library_name == "eventful-policies" and card.data.license == "apache-2.0"
    assert "token-selection" in card.data.tags
    assert f"`{backbone_hash(task.model)}`" in text and "| task " in text and "`squares`" in text
    rows = [line for line in text.splitlines() if line.startswith(("| learned ", "| top-r ", "| all (dense)"))]
    assert len(rows) == 2 * 2 + 2 + 1, "the policy in two tables, top-r and the dense model in one"
    assert "| 99 % of the dense model's agreement | learned | " in text
    assert "mean of" not in text, "the other checkpoint's figures are not this one's"
    assert "[" in next(row for row in rows if row.startswith("| learned")), "intervals"
    assert shlex.join(["python", "-m", "train.card", f"policy={evaluated.policy}"]) in text
    assert policy.card == text


@pytest.mark.parametrize(
    ("recorded", "said"),
    [(None, "in the backbone of the training."), (BACKBONE, ", other ones than in training."), ("", "`.\n")],
)
def test_a_card_says_whether_the_backbone_is_that_of_the_training(
    task: Squares, evaluated: CardConfig, recorded: str | None, said: str
) -> None:
    policy = policies.load(evaluated.policy)
    backbone = backbone_hash(task.model) if recorded is None else recorded
    policy.provenance = replace(policy.provenance, backbone=backbone, command="eventful-train seed=1")
    policy.save_pretrained(evaluated.policy)
    text = write_card(evaluated).read_text()
    scores = text.split("## Scores")[1].split("|")[0]
    assert said in scores + "\n" and "\neventful-train seed=1\n" in text


def test_a_card_is_of_the_policy_as_it_is(evaluated: CardConfig, tmp_path: Path) -> None:
    policy = policies.load(evaluated.policy)
    policy.feedback = 0.05
    policy.save_pretrained(tmp_path / "third")
    with pytest.raises(UserError, match=r"has no run of policy=.*third as it is now"):
        write_card(replace(evaluated, policy=str(tmp_path / "third")))
    with pytest.raises(UserError, match="no such folder to write a card into"):
        write_card(replace(evaluated, policy="doom"))


def test_runs_that_are_not_finished_make_no_card(evaluated: CardConfig) -> None:
    results = Path(evaluated.evaluation) / "results.jsonl"
    lines = results.read_text().splitlines(keepends=True)
    of_first = [line for line in lines if '"contender": "Learned"' in line and "first" in line]
    results.write_text("".join(line for line in lines if line != of_first[-1]))
    with pytest.raises(UserError, match="not finished"):
        write_card(evaluated)


def test_a_card_goes_with_what_is_saved(task: Squares, tmp_path: Path) -> None:
    source = Path(checkpoint(task, tmp_path / "source"))
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# Mine, 5 %: ±0.1\n", encoding="utf-8")
    written = (source / "README.md").read_bytes()
    policy = policies.load(source)
    policy.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_bytes() == written
    (tmp_path / "copy" / "README.md").unlink()
    assert policies.load(tmp_path / "copy").card == ""


def test_a_card_comes_from_the_hub(task: Squares, tmp_path: Path, monkeypatch) -> None:
    from huggingface_hub.errors import EntryNotFoundError

    source = Path(checkpoint(task, tmp_path / "source"))
    (source / "README.md").write_text("# Mine")

    def download(model_id: str, name: str, **where: Any) -> str:
        assert model_id == "me/mine"
        if not (source / name).exists():
            raise EntryNotFoundError(name)
        return str(source / name)

    monkeypatch.setattr("policies.trainable.hf_hub_download", download)
    monkeypatch.setattr(hub_mixin, "hf_hub_download", lambda repo_id, filename, **where: download(repo_id, filename))
    assert policies.load("me/mine").card == "# Mine"
    (source / "README.md").unlink()
    assert policies.load("me/mine").card == ""


def test_a_training_records_its_backbone_and_command(tmp_path: Path, monkeypatch) -> None:
    settings = TrainConfig(
        task="mine:Task", out=str(tmp_path), steps=0, window=2, streams=2, calibration_streams=2, calibration_frames=4,
        hidden=4, policy_budgets=[0.2, 0.6], oracle=OracleOptions(frames=1), threads=1,
    )  # fmt: skip
    task = Task()
    monkeypatch.setattr("train.policy.make_task", lambda config: task)
    provenance = policies.load(train(settings)).provenance
    assert provenance.backbone == backbone_hash(task.model) and trained_here(provenance)
    words = shlex.split(provenance.command)
    assert words[:2] == ["eventful-train", "task=mine:Task"] and str(tmp_path) not in provenance.command
    assert load_config(TrainConfig, [*words[1:], f"out={tmp_path}", "threads=1"]) == settings
    given = policies.load(train(replace(settings, task="tiny", out=str(tmp_path / "given")), task)).provenance
    assert given.command == "", "a task that is an object cannot be named on a command line"


def test_older_versions_read_the_record() -> None:
    """They look at `format`, `task`, `options`, `policy` and `objective`, and find the note of the training."""
    old = {"format": 1, "task": {"name": "distill", "weights": "w.pth"}, "options": {"granularity": "frame"}}
    now = Provenance.of({**old, "backbone": BACKBONE, "command": "eventful-train steps=3"})
    written = now.to_dict()
    assert {name: written[name] for name in old} == old and written["backbone"] == BACKBONE
    assert Provenance.of(written) == now and Provenance.of(old).backbone == ""
    assert "backbone" not in Provenance.of(old).to_dict(), "what earlier versions wrote has the hash that it had"
    note_trained_here(now)
    assert trained_here(Provenance.of(old))
    with pytest.raises(ValueError, match="must name its backbone by a text, got 3"):
        Provenance.of({**old, "backbone": 3})


def test_a_policy_in_another_backbone_says_what_differs(caplog) -> None:
    trained = Provenance("distill", {"model": "vit_tiny", "weights": "a.pth"}, backbone=BACKBONE)
    with caplog.at_level(logging.WARNING):
        warn_of_other_backbone(trained, BACKBONE, {"model": "vit_small"})
        warn_of_other_backbone(replace(trained, backbone=""), "ab" * 32, {})
        assert not caplog.messages
        warn_of_other_backbone(trained, "ab" * 32, {"model": "vit_tiny", "weights": "b.pth"})
        warn_of_other_backbone(trained, "ab" * 32, trained.task_options)
    assert caplog.messages == [
        "warning: the policy was trained in a model with other weights (hash 121212121212 then, abababababab now; "
        "weights a.pth then, b.pth now)",
        "warning: the policy was trained in a model with other weights (hash 121212121212 then, abababababab now; "
        "the options of the task are the same)",
    ]


def test_inference_and_evaluation_warn_once(task: Squares, tmp_path: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(task, "predictions", lambda outputs, size: [[] for _ in outputs], raising=False)
    policy = policies.load(checkpoint(task, tmp_path / "policy"))
    policy.provenance = replace(policy.provenance, backbone=backbone_hash(task.model))
    policy.save_pretrained(tmp_path / "policy")
    settings = config(tmp_path, policy=str(tmp_path / "policy"), policies=["Learned"], budgets=[0.5])

    def warned() -> int:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            prepare(policy, task, options={"granularity": "frame"})
            evaluate(replace(settings, out=str(tmp_path / str(len(list(tmp_path.iterdir()))))), task)
        return sum("other weights (hash" in message for message in caplog.messages)

    assert warned() == 0
    with torch.no_grad():
        next(task.model.parameters()).add_(1e-3)
    assert warned() == 2


@pytest.mark.parametrize(
    "settings",
    [
        TrainConfig(),
        TrainConfig(task="a:B", video="my video.mp4", image_size=[238, 322], lr=2e-6, max_age=3, saliency=False),
        TrainConfig(objective=Objective(), task_options={"sizes": {"test": 48}, "name": "x y"}),
        TrainConfig(objective=Objective(output=1.0, fidelity=0.0), gumbel=replace(TrainConfig().gumbel, noise=False)),
        EvaluateConfig(policy=["runs/a", "runs/b"], budgets=[0.05, 0.1], policies=["Learned", "TopR@gate"]),
    ],
)
def test_a_command_line_says_what_the_config_says(settings: Any) -> None:
    line = command_line(settings, "command")
    assert load_config(type(settings), shlex.split(line)[1:]) == settings
    assert "lr" not in command_line(settings, "command", but=["lr"])


def test_evaluations_of_earlier_versions_are_read(evaluated: CardConfig) -> None:
    results = Path(evaluated.evaluation) / "results.jsonl"
    head, *rows = results.read_text().splitlines()
    known = {name: value for name, value in json.loads(head).items() if name != "about"}
    results.write_text("\n".join([json.dumps(known), *rows]) + "\n")
    assert "weights: `not recorded`" in write_card(evaluated).read_text()
