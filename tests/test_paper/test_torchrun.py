"""Tables by processes that `torchrun` starts: what one process writes, to the bit, also after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from vitdet_tiny import CLASSES, TINY, squares

from envs.vid import ClassList
from envs.vid.write import write_official
from envs.vivit.weights import ViViTSizes, save_vivit
from eventful.video.writer import VideoWriter

pytestmark = pytest.mark.slow
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def detection(folder):
    """The command on videos with boxes, and the results that it leaves one by one."""
    clips = [squares(f"clip-{k}", k, 12) for k in range(6)]
    write_official(folder / "vid", "val", clips, ClassList(tuple(CLASSES)))
    rows = "[dense,eventful:top-r:8,token-wise:top-r:8,stgt:top-r:8,pooled:top-r:8,eventful:threshold:1.0]"
    settings = [f"root={folder / 'vid'}", "canvas=128", "proposals=20", f"architecture={json.dumps(TINY)}"]
    command = ["train.paper.detection", f"classes=[{','.join(CLASSES)}]", f"rows={rows}", "threads=1", *settings]
    return command, lambda out: [line for path in out.rglob("*.jsonl") for line in path.read_text().splitlines()]


def actions(folder):
    """The same for clips of verbs, features of which are kept in a file for each."""
    for k in range(8):
        path = folder / "clips/val" / "ab"[k % 2] / f"{k}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(k).integers(0, 256, (16, 64, 80, 3), dtype=np.uint8)
        with VideoWriter(path, 10) as video:
            for frame_HWC in noise:
                video.write(frame_HWC)
    torch.manual_seed(0)
    save_vivit(ViViTSizes(64, 2, 16, 48, 2, 2, 1).on(torch.device("cpu")), folder / "vivit.safetensors")
    settings = ["data=folder", f"data_options.root={folder / 'clips'}", "split=val", "stride=1", "threads=1"]
    settings += [f"weights.original={folder / 'vivit.safetensors'}", "rows.original=[dense,5,3]"]
    return ["train.paper.actions", *settings], lambda out: list(out.rglob("??/*.safetensors"))


@pytest.fixture(scope="module", params=[detection, actions], ids=["detection", "actions"])
def whole(request, tmp_path_factory):
    """A command, what it leaves, and the table that one process writes."""
    folder = tmp_path_factory.mktemp(request.param.__name__)
    command, results = request.param(folder)
    finish(start(command, folder / "one", 1))
    return command, results, table(folder / "one")


def start(command, out, processes):
    launcher = LAUNCHER if processes > 1 else []
    cache = [f"cache={out / 'cache'}"] if "train.paper.actions" in command else []
    words = [sys.executable, *launcher, "-m", *command, f"out={out}", *cache]
    return subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(run):
    _, error = run.communicate(timeout=300)
    assert run.returncode == 0, error[-3000:]


def table(out):
    return [(out / name).read_bytes() for name in ("table.md", "table.csv")]


def test_two_processes_write_what_one_does(whole, tmp_path):
    command, _, expected = whole
    finish(start(command, tmp_path / "two", 2))
    assert table(tmp_path / "two") == expected


def test_two_processes_that_were_killed_go_on(whole, tmp_path):
    command, results, expected = whole
    out = tmp_path / "killed"
    run = start(command, out, 2)
    while len(results(out)) < 2 and run.poll() is None:
        time.sleep(0.01)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    for process in (run.pid, *map(int, children)):
        os.kill(process, signal.SIGKILL)
    run.communicate(timeout=60)
    kept = len(results(out))
    assert len(children) == 2 and kept >= 2 and not (out / "table.md").exists(), "it was killed on its way"
    finish(start(command, out, 2))
    assert table(out) == expected and len(results(out)) > kept
