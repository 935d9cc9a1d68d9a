"""The preview window: keys turn the budget, pause and end; the driver without a screen stands for one."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from footage import write_video

from eventful import infer
from eventful.errors import UserError
from eventful.live.pace import LEAST, Pace
from eventful.live.preview import STEP, Preview
from eventful.video.reader import read_frames
from eventful.video.run_summary import Summary

pygame = pytest.importorskip("pygame")

FRAME = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)


@pytest.fixture(autouse=True)
def no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


def press(key: int, character: str = "") -> None:
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key, unicode=character, mod=0))


def command(argv: list[Any]) -> int:
    with pytest.raises(SystemExit) as ended:
        infer.main([str(word) for word in argv])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_window_shows_the_frame() -> None:
    with Preview() as preview:
        preview.show(FRAME)
        shown = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    np.testing.assert_array_equal(shown, FRAME)


def test_a_frame_larger_than_the_screen_is_shown_whole_and_undistorted() -> None:
    with Preview() as preview:
        preview.show(np.full((4000, 2000, 3), 255, np.uint8))
        width, height = pygame.display.get_surface().get_size()
        screen = pygame.display.get_desktop_sizes()[0]
        assert height <= screen[1] and width <= screen[0] and height / width == pytest.approx(2, rel=0.01)
        preview.show(np.full((2000, 4000, 3), 255, np.uint8))
        lit = pygame.surfarray.array3d(pygame.display.get_surface())[:, :, 0] > 128
    assert lit.any(1).sum() == width and lit.any(0).sum() == pytest.approx(width / 2, abs=1)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([(pygame.K_PLUS, "+")], 0.2 * STEP),
        ([(pygame.K_EQUALS, "=")], 0.2 * STEP),
        ([(pygame.K_UP, ""), (pygame.K_KP_PLUS, "+")], 0.2 * STEP**2),
        ([(pygame.K_MINUS, "-")], 0.2 / STEP),
        ([(pygame.K_DOWN, ""), (pygame.K_KP_MINUS, "-")], 0.2 / STEP**2),
        ([(pygame.K_UP, "")] * 50, 1.0),
        ([(pygame.K_DOWN, "")] * 50, LEAST),
        ([(pygame.K_x, "x")], 0.2),
    ],
)
def test_keys_turn_the_budget_within_its_range(keys: list[tuple[int, str]], expected: float) -> None:
    with Preview() as preview:
        for key in keys:
            press(*key)
        asked = preview.show(FRAME, 0.2)
    assert asked.budget == pytest.approx(expected) and not asked.ended


def test_a_budget_that_is_not_for_keys_stays_so() -> None:
    with Preview() as preview:
        press(pygame.K_UP)
        assert preview.show(FRAME).budget is None
        assert "budget" not in preview.title


@pytest.mark.parametrize("event", [(pygame.KEYDOWN, pygame.K_q), (pygame.KEYDOWN, pygame.K_ESCAPE), (pygame.QUIT, 0)])
def test_q_escape_and_closing_the_window_end(event: tuple[int, int]) -> None:
    with Preview() as preview:
        pygame.event.post(pygame.event.Event(event[0], key=event[1], unicode="", mod=0))
        assert preview.show(FRAME, 0.2).ended


def test_during_a_pause_the_budget_can_be_turned() -> None:
    """Keys come in while `show` waits; the second space lets it go on."""
    with Preview() as preview:
        press(pygame.K_SPACE, " ")

        def later() -> None:
            press(pygame.K_UP)
            press(pygame.K_SPACE, " ")

        timer = threading.Timer(0.3, later)
        timer.start()
        asked = preview.show(FRAME, 0.2)
        timer.join()
    assert asked.budget == pytest.approx(0.2 * STEP)
    assert asked.paused >= 0.25 and not asked.ended


def test_a_pause_is_nobodys_time(tmp_path: Path) -> None:
    paused, plain = Pace(10), Pace(10)
    for pace in (paused, plain):
        pace.note(0.2, 1.0, flush=True)
    for _ in range(30):
        paused.leave_out(5.0)
        paused.note(5.08, 0.1)
        plain.note(0.08, 0.1)
    assert paused.budget == pytest.approx(plain.budget) and paused.summary() == plain.summary()
    summary = Summary()
    summary.frames = 1
    summary.leave_out(-1e6)
    line = summary.lines(read_frames(write_video(tmp_path / "a.mp4", 2)))[0]
    assert "1 frames, 0.0 frames/s" in line


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_video(tmp_path / "a.mp4", 24, 240, 320)


def run_with_keys(
    monkeypatch: pytest.MonkeyPatch, keys: dict[int, list[int]], argv: list[Any]
) -> tuple[int, list[dict[str, Any]]]:
    """Runs the command; keys are pressed while the given frames are shown. Returns its code and the JSON lines."""
    shown = 0
    show = Preview.show

    def and_press(preview: Preview, *frame: Any) -> Any:
        nonlocal shown
        for key in keys.get(shown, []):
            press(key)
        shown += 1
        return show(preview, *frame)

    monkeypatch.setattr(Preview, "show", and_press)
    rows = Path(argv[0]).with_name("rows.jsonl")
    code = command([*argv, "--preview", "--device", "cpu", "--json", rows])
    return code, [json.loads(line) for line in rows.read_text().splitlines()]


def test_fewer_tokens_are_updated_when_the_budget_is_turned_down_and_q_finishes_the_outputs(
    film: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {9: [pygame.K_DOWN] * 9, 19: [pygame.K_q]}
    out = film.with_name("out.mp4")
    code, rows = run_with_keys(monkeypatch, keys, [film, "--policy", "doom", "--budget", 0.5, "--out", out])
    assert code == 0 and len(rows) == 20, "q ends after the frame that is shown"
    assert [row["budget"] for row in rows[:10]] == pytest.approx([0.5] * 10)
    assert [row["budget"] for row in rows[10:]] == pytest.approx([0.5 / STEP**9] * 10)
    before, after = (np.mean([row["macs_ratio"] for row in part]) for part in (rows[2:10], rows[11:]))
    assert after < 0.5 * before
    assert len(list(read_frames(out))) == 20
    assert "20 frames," in capsys.readouterr().out


def test_under_a_rate_keys_leave_the_budget_alone(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {frame: [pygame.K_UP] for frame in range(24)}
    code, rows = run_with_keys(monkeypatch, keys, [film, "--policy", "doom", "--fps", 10_000])
    assert code == 0 and rows[-1]["budget"] < 0.1, "the rate says less, the keys more"


def test_rules_without_a_budget_are_shown_too(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, rows = run_with_keys(monkeypatch, {2: [pygame.K_UP]}, [film, "--heuristic", "top-r:40", "--task", "doom"])
    assert code == 0 and len(rows) == 24 and all(row["budget"] is None for row in rows)


def test_a_comparison_is_shown_and_ended(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = [film, "--policy", "doom", "--compare", "dense,learned", "--budget", 0.1]
    code, rows = run_with_keys(monkeypatch, {3: [pygame.K_q]}, argv)
    assert code == 0 and len(rows) == 2 * 4


@pytest.mark.parametrize("display", [None, ":987"])
def test_without_a_display_there_is_one_line(
    film: Path, display: str | None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("SDL_VIDEODRIVER", "WAYLAND_DISPLAY", "DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if display is not None:
        monkeypatch.setenv("DISPLAY", display)
    assert command([film, "--policy", "doom", "--preview"]) == 2
    error = capfd.readouterr().err
    assert error.startswith("eventful-infer: error: --preview needs a display") and error.count("\n") == 1


def test_without_the_library_there_is_one_line(
    film: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("eventful.checks.extras.find_spec", lambda name: None)
    assert command([film, "--policy", "doom", "--preview"]) == 2
    assert capsys.readouterr().err == (
        "eventful-infer: error: --preview needs pygame-ce: pip install 'eventful-policies[preview]'\n"
    )


def test_drivers_are_not_believed_in_unless_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "no_such_driver")
    with pytest.raises(UserError, match="needs a display that answers"), Preview():
        pass
