"""The benchmark runs, counts what it says, and refuses what does not exist."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from eventful.errors import UserError
from train.bench.memory import peak_bytes, state_bytes
from train.bench.paper_column import check_accounting
from train.bench.report import accounting_table
from train.bench.run import MODES, Setting, synthetic
from train.benchmark import BenchmarkConfig, benchmark
from train.config import load_config


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def tiny(out: Path, **changes: object) -> BenchmarkConfig:
    settings = dict(model="vit_tiny_patch16_224", cases=["64/4"], repeats=2, warmup=0, threads=1, out=str(out))
    return BenchmarkConfig(**(settings | {"memory": False, "model_options": {"depth": 2}} | changes))


def test_report_has_a_row_for_each_mode_and_its_state_is_the_predicted_one(tmp_path: Path) -> None:
    report = benchmark(tiny(tmp_path, profile=["dense", "gate/exact"]))
    assert [row.mode for row in report.rows] == [*MODES]
    for row in report.rows:
        assert row.timing is not None and row.timing.macs > 1
        # The real state holds what the gates remember about ages and what the ledger reported besides.
        assert row.state_bytes == pytest.approx(row.timing.state_bytes, rel=0.01)
    written = json.loads((tmp_path / "benchmark.json").read_text())
    assert len(written["rows"]) == len(MODES)
    text = (tmp_path / "benchmark.md").read_text()
    assert "gate/paper" in text and "## Profile: 64 px, r=4, gate/exact" in text


def test_a_mode_that_does_not_fit_into_memory_is_skipped_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.benchmark.available_bytes", lambda device: 1)
    report = benchmark(tiny(tmp_path, modes=["frame"]))
    assert report.rows[0].timing is None and "skipped: needs" in report.to_markdown()


def test_exact_state_is_ten_times_smaller_than_paper_at_1024_pixels() -> None:
    setting = Setting("vit_base_patch16_224", {}, 1024, 512, torch.float32, torch.device("cpu"))
    assert state_bytes(setting, "gate/paper") > 10 * state_bytes(setting, "gate/exact")


def test_peak_memory_is_at_least_the_state() -> None:
    setting = Setting("vit_tiny_patch16_224", {"depth": 2}, 384, 60, torch.float32, torch.device("cpu"))
    assert peak_bytes(setting, "gate/paper", threads=1) > state_bytes(setting, "gate/paper")


def test_accounting_of_a_real_run_is_what_its_ledger_says() -> None:
    # 20 x 20 tokens: the windows are padded.
    check = check_accounting(320, 40, torch.device("cpu"))
    assert check.agrees and check.published is None
    assert "linear" in accounting_table(check)


def test_synthetic_stream_changes_as_asked() -> None:
    setting = Setting("vit_tiny_patch16_224", {}, 64, 4, torch.float32, torch.device("cpu"))
    stream = synthetic(setting, noise=0.0, changed=0.25, seed=3)
    first, second = next(stream), next(stream)
    assert (first != second).any(1).float().mean().item() == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cases": ["672"]}, "SIZE/R"),
        ({"modes": ["gate/exakt"]}, "modes must be among gate/exact"),
        ({"dtype": "float8"}, "dtype must be among"),
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"changed": 0.0}, "changed must be a share"),
        ({"device": "warp:0"}, "device=warp:0"),
        (
            {"cases": ["65/4"], "model": "vit_tiny_patch16_224", "model_options": {"dynamic_img_size": 3, "nose": 1}},
            "nose",
        ),
    ],
)
def test_what_does_not_exist_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        benchmark(tiny(tmp_path, **changes))


def test_shipped_config_is_valid() -> None:
    assert load_config(BenchmarkConfig, ["configs/benchmark.yaml", "repeats=3"]).repeats == 3
