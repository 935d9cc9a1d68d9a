"""What is written is there whatever happens: a full disk, a signal, a kill."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eventful.errors import VideoError
from eventful.video import read_frames

FULL_DISK = """
import resource, sys
import numpy as np
from eventful.errors import VideoError
from eventful.video import VideoWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000))
noise = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
with VideoWriter(sys.argv[1], 25) as video:
    for k in range(300):
        try:
            video.write(np.roll(noise, k, 1))
        except VideoError as error:
            print(k, error)
            break
"""

LONG_RUN = """
import sys, time
import numpy as np
from eventful import cli
from eventful.video import VideoWriter
def main(argv):
    noise = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    with VideoWriter(argv[0], 25) as video:
        for k in range(150):
            video.write(np.roll(noise, k, 1))
        print("written", flush=True)
        time.sleep(60)
cli.run("test", main)
"""


def _heed_signals() -> None:
    """Undoes what `nohup` and shells do to background jobs, whose children ignore these signals, too."""
    for name in (signal.SIGINT, signal.SIGHUP):
        signal.signal(name, signal.SIG_DFL)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_file_that_cannot_grow_is_noticed_at_once(suffix: str, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", FULL_DISK, str(tmp_path / f"a{suffix}")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    frame, _, message = done.stdout.partition(" ")
    assert int(frame) < 250 and message == f"video {argv[-1]} cannot be written: File too large\n"


@pytest.mark.parametrize(
    ("name", "code", "suffix"),
    [("INT", 130, ".mp4"), ("TERM", 143, ".mp4"), ("HUP", 129, ".mp4"), ("KILL", -9, ".mp4"), ("KILL", -9, ".mkv")],
)
def test_what_was_written_plays_whatever_ends_the_process(name: str, code: int, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    process = subprocess.Popen(
        [sys.executable, "-c", LONG_RUN, str(path)], stdout=subprocess.PIPE, text=True, preexec_fn=_heed_signals
    )
    assert process.stdout is not None and process.stdout.readline() == "written\n"
    process.send_signal(signal.Signals[f"SIG{name}"])
    assert process.wait() == code
    process.stdout.close()
    # A killed process takes what the encoder holds with it, and a fragment.
    assert frames_in(path) >= 60 if name == "KILL" else frames_in(path) == 150


def frames_in(path: Path) -> int:
    """How many frames can be read, whatever comes after them."""
    count = 0
    with contextlib.suppress(VideoError):
        for _ in read_frames(path):
            count += 1
    return count


@pytest.mark.parametrize("names", [("INT", "INT"), ("TERM", "TERM"), ("INT", "TERM", "HUP")])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_what_was_written_plays_if_one_does_not_wait_for_the_end(
    names: tuple[str, ...], suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    process = subprocess.Popen(
        [sys.executable, "-c", LONG_RUN, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=_heed_signals,
    )
    assert process.stdout is not None and process.stdout.readline() == "written\n"
    for name in names:
        process.send_signal(signal.Signals[f"SIG{name}"])
        time.sleep(0.01)
    assert process.wait() != 0
    process.stdout.close()
    assert frames_in(path) >= 60
