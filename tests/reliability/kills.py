"""Kills trainings and evaluations with SIGKILL at random times; what is resumed must end as what was never killed.

    OMP_NUM_THREADS=1 python tests/reliability/kills.py            # 20 of each, a few minutes

Trains and evaluates for seconds on the small tasks of the tests. A run is killed again and again until it has come to
its end, at times drawn between 0 and as long as an uninterrupted one takes. Exit code 1 if a single bit differs.
"""

# ruff: noqa: E402 (the tests' small tasks are beside this folder)
import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS), str(TESTS / "test_files")]

import torch
from dying import KILLED, in_child
from test_kills import RUNS, at_home, result


def kill_at_random(kind: str, kills: int, seed: int, place: Path) -> tuple[int, int, int]:
    """Returns how many kills hit, how many runs they were in, and how many of these ended otherwise."""
    chance, whole, folder = random.Random(seed), place / "whole", place / "killed"
    started = time.monotonic()
    status, said = in_child(at_home(kind, whole))
    lasts = time.monotonic() - started
    if status:
        raise SystemExit(f"{kind}: the run that nobody kills fails: {said}")
    want, hit, runs, differ = result(whole), 0, 0, 0
    while hit < kills:
        shutil.rmtree(folder, ignore_errors=True)
        runs += 1
        status = KILLED
        while status == KILLED:
            until = chance.uniform(0, lasts) if hit < kills else None
            status, said = in_child(at_home(kind, folder), until=until)
            hit += status == KILLED
        if status or result(folder) != want or leftovers(folder):
            print(f"{kind}, run {runs}: status {status}, {leftovers(folder)}, {said[-500:]}")
            differ += 1
    return hit, runs, differ


def leftovers(folder: Path) -> list[str]:
    """Files that a run left half written."""
    return [name for name in os.listdir(folder) if name.endswith((".tmp", ".part"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each kind of run")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    differing = 0
    for kind in RUNS:
        with tempfile.TemporaryDirectory() as place:
            hit, runs, differ = kill_at_random(kind, args.kills, args.seed, Path(place))
        print(f"{kind}: {hit} kills in {runs} runs, {runs - differ} of {runs} ended as the one that was not killed")
        differing += differ
    raise SystemExit(1 if differing else 0)


if __name__ == "__main__":
    main()
