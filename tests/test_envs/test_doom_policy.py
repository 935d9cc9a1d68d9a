"""The policy that ships with the package: it is there, fits the shipped detector, and does what its card says."""

import json
import re

import pytest
import torch

import eventful
import policies
from envs.doom.task import POLICY, DoomDetection
from eventful.tasks import saliency_of

CARD = POLICY / "README.md"


def test_it_is_loaded_by_name_and_fits_the_shipped_detector():
    task, policy = DoomDetection(), policies.load("doom")
    model = eventful.wrap(task.model, policy, granularity="frame", saliency=saliency_of(task))
    frames = torch.randint(0, 256, (3, 1, 240, 320, 3), dtype=torch.uint8)
    with torch.inference_mode():
        for frame in frames:
            outputs = model(task.preprocess(frame))
    assert torch.isfinite(outputs).all()
    assert policy.provenance.task == "doom"


def test_it_is_more_than_the_rule_that_it_started_from():
    assert policies.load("doom").out.weight.abs().sum() > 0


def test_it_is_small():
    assert sum(file.stat().st_size for file in POLICY.iterdir()) < 50_000


def test_the_card_names_the_settings_that_the_checkpoint_records():
    recorded = json.loads((POLICY / "config.json").read_text())["provenance"]
    card = CARD.read_text()
    assert recorded["task"]["name"] == "doom"
    for kind, weight in recorded["objective"].items():
        assert re.search(rf"`{kind}` {weight:g}\b", card), kind


def test_a_name_that_is_not_installed_is_told_those_that_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"installed one \(doom\)"):
        policies.load("dooom")


def test_a_folder_of_the_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "doom").mkdir()
    with pytest.raises(ValueError, match=r"doom has no config\.json"):
        policies.load("doom")
