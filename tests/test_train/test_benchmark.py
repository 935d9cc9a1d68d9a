"""The benchmark runs, counts what it says, and refuses what does not exist."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from eventful.errors import UserError
from train.bench.case import MODES, VITDET, Setting, synthetic
from train.bench.dense import WAYS, race
from train.bench.earlier import fallen, read_earlier
from train.bench.memory import peak_bytes, state_bytes
from train.bench.op_profile import FrameProfile, OpTime
from train.bench.paper_column import check_accounting
from train.bench.parts import by_part, part_of
from train.bench.picture import COLOURS
from train.bench.report import Report, accounting_table
from train.bench.row import Row
from train.bench.run import Timing
from train.bench.slopes import slopes
from train.benchmark import BenchmarkConfig, benchmark
from train.config import load_config


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def tiny(out: Path, **changes: object) -> BenchmarkConfig:
    settings = dict(model="vit_tiny_patch16_224", cases=["64/4"], repeats=2, warmup=0, threads=1, out=str(out))
    quick = {"memory": False, "plots": False, "dense": ["eager", "onednn"], "model_options": {"depth": 2}}
    return BenchmarkConfig(**(settings | quick | changes))


def test_report_has_a_row_for_each_mode_and_its_state_is_the_predicted_one(tmp_path: Path) -> None:
    report = benchmark(tiny(tmp_path, modes=[*MODES], profile=["dense", "gate/exact"]))
    assert [row.mode for row in report.rows] == [*MODES]
    for row in report.rows:
        assert row.timing is not None and row.timing.macs > 1
        # The real state holds what the gates remember about ages and what the ledger reported besides.
        assert row.state_bytes == pytest.approx(row.timing.state_bytes, rel=0.01)
    written = json.loads((tmp_path / "benchmark.json").read_text())
    assert len(written["rows"]) == len(MODES)
    text = (tmp_path / "benchmark.md").read_text()
    assert "gate/paper" in text and "## Profile: 64 px, r=4, gate/exact" in text
    assert "## Time by part" in text and set(written["parts"]) == {"64 px, r=4, dense", "64 px, r=4, gate/exact"}


def test_times_grow_by_a_line_over_selected_and_a_power_of_all_tokens() -> None:
    def row(size: int, r: int, ms: float) -> Row:
        tokens = (size // 16) ** 2 + 1
        dense = 0.002 * tokens**1.5
        timing = Timing((ms,) * 3, (dense,) * 3, (dense / ms,) * 3, 2.0, 2.0, {}, 0, 0.0)
        return Row(size, tokens, r, "frame", 0, timing)

    rows = [row(224, r, 5 + 0.25 * r) for r in (10, 20, 80)] + [row(448, 10, 60.0), row(448, 20, 61.0)]
    found = {(slope.mode, slope.over, slope.fixed): slope for slope in slopes(rows)}
    assert set(found) == {("frame", "M", 224), ("frame", "N", 10), ("frame", "N", 20), ("dense", "N", 0)}
    line, power = found["frame", "M", 224], found["dense", "N", 0]
    assert (line.points, line.start, line.slope) == (3, pytest.approx(5), pytest.approx(0.25))
    assert power.slope == pytest.approx(1.5) and power.start == pytest.approx(0.002 * 1000**1.5)
    text = Report({}, rows=rows).to_markdown()
    assert "| frame | 224 px | 3     | 5.0 + 0.250 M" in text and "(N / 1000)^1.50" in text


def test_operations_belong_to_parts() -> None:
    ops = {
        "_scaled_dot_product_flash_attention_for_cpu": "attention",
        "addmm": "linear layers",
        "_linear_pointwise": "linear layers",
        "index_copy_": "rows read and written",
        "conv2d": "patch embedding",
        "native_layer_norm": "layer norms, activations, sums",
        "linalg_vector_norm": "error norms",
        "topk": "what is selected",
        "expand": "views",
        "anything": "other operations",
    }
    assert {name: part_of(name) for name in ops} == ops
    profile = FrameProfile(10.0, [OpTime(name, "", 1, 0.5) for name in ops])
    parts = by_part(profile)
    assert sum(parts.values()) == pytest.approx(10) and parts["outside of operations"] == pytest.approx(
        10 - 0.5 * len(ops)
    )
    assert parts["linear layers"] == 1.0


def test_every_mode_has_a_colour() -> None:
    assert set(COLOURS) == set(MODES)


def test_modes_are_compared_with_the_fastest_dense_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(vit: torch.nn.Module) -> object:
        return lambda frame: (time.sleep(0.05), vit(frame))[1]

    def broken(vit: torch.nn.Module) -> object:
        raise RuntimeError("no compiler\nanywhere")

    def unable(vit: torch.nn.Module) -> object:
        return lambda frame: broken(vit)

    for name, way in {"slow": slow, "unable": unable}.items():
        monkeypatch.setitem(WAYS, name, way)
    setting = Setting("vit_tiny_patch16_224", {"depth": 2}, 64, 4, torch.float32, torch.device("cpu"))
    vit, frames = setting.build(), synthetic(setting, 0.02, 0.05, seed=0)
    dense, found = race(setting, vit, ["slow", "eager", "unable"], frames, 3)
    assert dense is vit
    assert [(way.way, way.fastest) for way in found] == [("slow", False), ("eager", True), ("unable", False)]
    assert found[2].ms is None and "no compiler" in found[2].missing
    with pytest.raises(RuntimeError, match="in any way"):
        race(setting, vit, ["unable"], frames, 3)


def test_a_case_may_name_a_share_of_the_tokens_and_sizes_race_once(tmp_path: Path) -> None:
    report = benchmark(tiny(tmp_path, cases=["64/50%", "64/100%"], modes=["frame"], plots=True))
    # Sixteen patches and the class token.
    assert [row.r for row in report.rows] == [8, 17]
    assert [way.way for way in report.dense] == ["eager", "onednn"]
    assert sum(way.fastest for way in report.dense) == 1
    everything = report.rows[1].timing
    assert everything is not None and everything.macs == pytest.approx(1, rel=1e-3) and abs(everything.distance) < 1e-6
    text = report.to_markdown()
    assert "The dense model, the fastest in bold" in text and "Least speed-up of frame" in text
    assert (tmp_path / "speedups.png").stat().st_size > 10_000


def test_the_papers_detection_backbone_is_a_model_like_timms(tmp_path: Path) -> None:
    changes = {"model": VITDET, "model_options": {}, "modes": ["frame"], "dense": ["onednn"], "cases": ["64/100%"]}
    (row,) = benchmark(tiny(tmp_path, repeats=1, **changes)).rows
    assert row.r == 16 and row.timing is not None and abs(row.timing.distance) < 1e-6
    with pytest.raises(UserError, match=r"model=vitdet_b at 64 pixels: .*depth"):
        benchmark(tiny(tmp_path, model=VITDET, model_options={"depth": 2}))


def test_speedups_are_compared_with_those_of_an_earlier_run(tmp_path: Path) -> None:
    report = benchmark(tiny(tmp_path, modes=["frame"]))
    path = tmp_path / "benchmark.json"
    assert fallen(report.about, report.rows, read_earlier(path)) == ([], [])
    earlier = json.loads(path.read_text())
    earlier["rows"][0]["timing"]["speedup"][1] *= 1.2
    path.write_text(json.dumps(earlier))
    _, lines = fallen(report.about, report.rows, read_earlier(path))
    assert len(lines) == 1 and lines[0].startswith("64/4 frame: ")
    earlier["about"]["threads"] = 64
    path.write_text(json.dumps(earlier))
    other, _ = fallen(report.about, report.rows, read_earlier(path))
    assert other == ["threads: 64 before, 1 now"]


@pytest.mark.parametrize(("text", "message"), [("[]", "is no benchmark"), ("{", "is no benchmark"), (None, "No such")])
def test_an_earlier_run_that_is_none_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "benchmark.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_earlier(path)


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
        ({"cases": ["672/0%"]}, "SIZE/R"),
        ({"accounting": ["672/5%"]}, "number of tokens"),
        ({"dense": ["quick"]}, "dense must be among eager"),
        ({"dense": []}, "one or more of dense"),
        ({"modes": ["gate/exakt"]}, "modes must be among gate/exact"),
        ({"dtype": "float8"}, "dtype must be among"),
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"changed": 0.0}, "changed must be above 0"),
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
