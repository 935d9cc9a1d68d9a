"""What a checkpoint from elsewhere may decide: numbers, choices and the name of a model, but no paths."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from eventful.errors import UserError
from eventful.infer import prepare
from eventful.trust import note_trained_here, options_of_checkpoint, trained_here
from policies import LearnedPolicy, Provenance
from train.evaluate_config import EvaluateConfig, completed

FOREIGN: dict[str, Any] = {
    "model": "test_vit",
    "num_classes": 0,
    "image_size": [64, 64],
    "weights": "/etc/passwd",
    "video": "/dev/zero",
    "cache": "/tmp/elsewhere",
}


def options(task_options: dict[str, Any], given: dict[str, Any] | None = None, **how: Any) -> dict[str, Any]:
    return options_of_checkpoint(Provenance("distill", task_options), given or {}, how.pop("trust", False), "X", **how)


def test_what_comes_from_elsewhere_names_no_files() -> None:
    with pytest.raises(UserError) as refused:
        options(FOREIGN)
    said = str(refused.value)
    assert "names weights='/etc/passwd', video='/dev/zero', cache='/tmp/elsewhere'" in said
    assert said.endswith("give weights, video, cache yourself, or X if you know where it comes from")


def test_what_is_given_is_not_asked_for() -> None:
    mine = {"weights": "w.pth", "video": "v.mp4", "cache": None}
    assert options(FOREIGN, mine) == {"model": "test_vit", "num_classes": 0, "image_size": [64, 64]}
    assert options(FOREIGN, {"weights": "w.pth"}, but=("video", "cache")) == options(FOREIGN, mine)
    assert options(FOREIGN, trust=True) == FOREIGN


def test_texts_within_lists_and_tables_are_texts() -> None:
    for value in (["/etc/passwd"], {"a": "/etc/passwd"}, {"/etc/passwd": 1}, [[1, {"a": ["x"]}]]):
        with pytest.raises(UserError, match="names classes="):
            options({"classes": value})
    assert options({"sizes": {}, "rates": [1, [2.5, None, True]]}) == {"sizes": {}, "rates": [1, [2.5, None, True]]}


def test_choices_are_no_paths() -> None:
    trained = Provenance("follow", {"measure": "box"})
    assert options_of_checkpoint(trained, {}, False, "X") == {"measure": "box"}
    with pytest.raises(UserError, match="measure='/etc/passwd'"):
        options_of_checkpoint(Provenance("follow", {"measure": "/etc/passwd"}), {}, False, "X")


def test_choices_beside_other_texts_are_no_paths() -> None:
    recorded = Provenance("actions", {"data": "folder", "stride": 1})
    assert options_of_checkpoint(recorded, {}, False, "X") == {"data": "folder", "stride": 1}
    with pytest.raises(UserError, match="data='mine:Set'"):
        options_of_checkpoint(Provenance("actions", {"data": "mine:Set"}), {}, False, "X")


def test_trainings_of_ones_own_are_known_until_their_record_is_changed() -> None:
    mine = Provenance("distill", FOREIGN, {"granularity": "frame"})
    assert not trained_here(mine)
    note_trained_here(mine)
    assert trained_here(Provenance.of(mine.to_dict())) and options_of_checkpoint(mine, {}, False, "X") == FOREIGN
    assert not trained_here(Provenance("distill", FOREIGN | {"video": "/etc/shadow"}, {"granularity": "frame"}))


def test_where_nothing_can_be_noted_paths_will_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        note_trained_here(Provenance("doom"))
    assert "its paths will be asked for" in caplog.text and not trained_here(Provenance("doom"))


def test_the_commands_ask(tmp_path: Path) -> None:
    policy = LearnedPolicy(1, 64, provenance={"task": {"name": "distill", **FOREIGN}})
    policy.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"names weights='/etc/passwd': .* or --trust"):
        prepare(tmp_path)
    with pytest.raises(UserError, match=r"weights\.pth does not exist"):
        prepare(tmp_path, task_options={"weights": "weights.pth"})
    with pytest.raises(UserError, match=r"passwd"):
        prepare(tmp_path, trust=True)
    with pytest.raises(UserError, match=r"names weights=.*, video=.*, cache=.*trust=true"):
        completed(EvaluateConfig(), {"a": policy})
    given = EvaluateConfig(weights="w.pth", video="v.mp4", task_options={"cache": None})
    found = completed(given, {"a": policy})
    assert (found.weights, found.video, found.model, found.image_size) == ("w.pth", "v.mp4", "test_vit", [64, 64])
    assert completed(EvaluateConfig(trust=True), {"a": policy}).video == "/dev/zero"
