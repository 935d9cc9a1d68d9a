"""The trial of a held frame rate: its frames, its load, its judgement. No times are asserted."""

from __future__ import annotations

import itertools
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from footage import write_video

from eventful.errors import UserError
from train.bench import rate
from train.bench.rate import RateConfig, Run, _distances, _table, _ToAndFro, busy, rate_table


def test_frames_go_to_and_fro() -> None:
    frames = [np.full((1, 1, 3), k, np.uint8) for k in range(4)]
    taken = [int(frame[0, 0, 0]) for frame in itertools.islice(_ToAndFro(frames, 25, "a"), 11)]
    assert taken == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2]


def test_the_load_takes_its_core_and_is_gone_afterwards() -> None:
    core = min(os.sched_getaffinity(0))
    with busy(core, 2):
        children = [
            int(pid) for pid in Path("/proc/self/task").joinpath(str(os.getpid()), "children").read_text().split()
        ]
        deadline = time.monotonic() + 60
        while any(os.sched_getaffinity(pid) != {core} for pid in children):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(children) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_windows_of_each_phase_are_judged_after_it_has_settled() -> None:
    config = RateConfig(video="", fps=10, seconds=4)
    # 10 a second; for two seconds after the load begins 4 a second, then 10 again.
    steps = [0.1] * 40 + [0.25] * 8 + [0.1] * 20 + [0.1] * 40
    ends = list(itertools.accumulate(steps))
    run = Run(ends, [0.5] * len(ends), [0.4] * len(ends))
    text = _table(run, dict.fromkeys(range(len(ends)), 0.01), config)
    inside = {row[0].strip(): row[1] for row in re.findall(r"^\| (\w[\w ]+)\|[^|]+\| (\d+ of \d+)", text, re.M)}
    alone, beside, again = (inside[phase].split(" of ") for phase in rate.PHASES)
    assert alone[0] == alone[1] and again[0] == again[1]
    assert beside[0] < beside[1], "what is slower than asked is outside"
    assert text.endswith("median distance to the dense model 0.0100")


def test_the_second_run_decides_as_the_first(tmp_path: Path) -> None:
    config = RateConfig(video=str(write_video(tmp_path / "a.mp4", 8, 240, 320)), dense_every=2)
    frames = list(rate.read_frames(config.video))
    source = _ToAndFro(frames, 25, "a")
    budgets = [0.1, 0.1, 0.3, 0.5, 0.05, 0.05, 0.2, 0.9]
    first = list(
        itertools.islice(
            rate.run_frames(source, rate.prepare("doom", device="cpu"), list(enumerate([0.1, *budgets]))), 1, 9
        )
    )
    run = Run([0.1 * k for k in range(8)], budgets, [result.macs_ratio for result in first])
    assert set(_distances(source, run, config)) == {1, 3, 5, 7}
    with pytest.raises(RuntimeError, match="other decisions"):
        _distances(source, Run(run.ends, budgets[::-1], run.shares), config)


def test_a_run_that_was_stopped_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(rate, "paced_run", lambda *_: Run([0.1, 5.0], [0.1, 0.1], [0.1, 0.1]))
    monkeypatch.setattr(rate, "_settle_on", lambda _: None)
    with pytest.raises(UserError, match="stopped in each of 2 runs"):
        rate_table(RateConfig(video=str(write_video(tmp_path / "a.mp4", 3)), tries=2))
    assert capsys.readouterr().err.count("no frame for 4.9 s") == 2


def test_a_core_that_there_is_not() -> None:
    with pytest.raises(UserError, match="core=1000: this process may run on"):
        rate_table(RateConfig(video="", core=1000))
