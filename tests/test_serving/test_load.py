"""The load test: cameras join, leave and are replaced; every frame is accounted for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from eventful.errors import UserError
from train.serving.load import LoadConfig, _main, load_test


def test_cameras_come_and_go_and_no_frame_is_unaccounted_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    _main(["cameras=4", "rates=[20,60]", "stay=0.3", "minutes=0.05", "threads=1", f"out={tmp_path}"])
    found = json.loads((tmp_path / "serving.json").read_text())
    assert found["lost"] == 0 and found["joined"] > 4
    assert found["counts"]["served"] > 0 and found["counts"]["dropped"] > 0
    assert found["counts"]["received"] == sum(found["counts"][k] for k in ("served", "dropped")) + found["waiting"]
    assert found["waited_ms"][0] <= found["latency_ms"][0]
    assert "0 unaccounted for" in capsys.readouterr().out


def test_rates_that_make_no_sense_are_refused() -> None:
    for rates in ([5.0], [0.0, 5.0], [9.0, 5.0]):
        with pytest.raises(UserError, match="rates are the least and the greatest"):
            load_test(LoadConfig(rates=rates))
