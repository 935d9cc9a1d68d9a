"""An interrupt while libraries are being loaded: one line from commands, nothing new in programs of others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What a shell starts in the background ignores interrupts, and so does all that it starts itself.
AS_FROM_A_TERMINAL = (
    "import os, signal, sys\n"
    "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
)

INTERRUPTED = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"


def run(folder, *argv):
    """Runs Python with a torch whose import is interrupted."""
    (folder / "torch.py").write_text(INTERRUPTED)
    path = os.pathsep.join([str(folder), str(ROOT)])
    command = [sys.executable, "-c", AS_FROM_A_TERMINAL, *argv]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("module", ["eventful.infer", "train.report", "envs.convert"])
def test_a_module_that_is_run_ends_in_one_line(module, tmp_path):
    done = run(tmp_path, "-m", module, "--help")
    assert (done.returncode, done.stderr) == (130, f"{module}: interrupted\n")


def test_a_console_command_ends_in_one_line(tmp_path):
    script = tmp_path / "eventful-train"
    script.write_text("from train.policy import main\nmain()\n")
    done = run(tmp_path, str(script))
    assert (done.returncode, done.stderr) == (130, "eventful-train: interrupted\n")


@pytest.mark.parametrize("argv", [("-c", "import eventful"), ("-c", "import train.report", "-m", "eventful.infer")])
def test_programs_of_others_are_interrupted_as_ever(argv, tmp_path):
    assert run(tmp_path, *argv).stderr.endswith("KeyboardInterrupt\n")
