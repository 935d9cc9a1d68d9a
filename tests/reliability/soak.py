"""Long runs in one process: is memory flat, are outputs as those of a fresh stream, do sums drift? (Linux)

    OMP_NUM_THREADS=1 python tests/reliability/soak.py                       # all of it, less than an hour
    OMP_NUM_THREADS=1 python tests/reliability/soak.py --modes gate/exact --frames 5000 --churn 0 --service 0

One stream for `--frames` frames in each mode, without a flush: a textured square wanders over a part of the picture,
the rest never changes, and every thousand frames the picture stands still for a while. Then streams that join and leave
all the time, for `--churn` frames in each mode; then the whole of `eventful-infer` for `--service` frames. "Off" is the
largest difference to the dense model's outputs on the same frame, over their spread. Exit code 1 if a limit is broken.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from streams import Camera, Memory, a_model, off, sums_error
from torch import Tensor

import eventful
import policies
from eventful.infer import run_frames
from eventful.infer.json_lines import write_line
from eventful.live.pace import Pace
from eventful.video.frames import Frame, FrameReader
from eventful.video.run_summary import Summary
from eventful.video.runner import VideoRunner

MODES: dict[str, dict[str, Any]] = {
    "frame": {"granularity": "frame"},
    "gate/exact": {},
    "gate/paper": {"attention": "paper"},
    "gate/recompute": {"attention": "recompute"},
}
"""The four ways in which the runtime updates what it remembers."""

EVERY, STILL, YOUNG = 1000, 60, 200
"""Frames from check to check; before it, frames that stand still, and the age of the stream it is compared with."""

GROWTH = 0.01
"""Largest growth of the resident memory after the first thousand frames."""

SUMS = 1e-4
"""Largest relative distance of attention outputs that are kept as sums from the sums of what they are of."""

FRESH = 1e-4
"""Largest distance of an output to that of the dense model, where both have seen the same, over the outputs' spread."""

DRIFT = 1.5
"""Largest ratio of the mean distances to the dense model in the second half of a run and in the first."""


def one_stream(mode: str, frames: int) -> bool:
    """One stream without a flush; says what came of it, and whether the limits held."""
    # Without a bound on age, frame granularity keeps what it made of neighbours that have moved on since.
    rules = [policies.TopR(6), policies.Threshold(1.0)]
    rules = [policies.AgeBound(rule, 15) for rule in rules] if mode == "frame" else rules
    model, camera, memory = a_model(rules[0], **MODES[mode]), Camera(1), Memory()
    young: eventful.StreamState | None = None
    sums, refreshed, settled, old_moving, young_moving = [], [], [], [], []
    for t in range(1, frames + 1):
        phase = t % EVERY
        still = phase == 0 or phase > EVERY - STILL
        # At first every number of rows comes once: kernels for each of them are made and kept when they are needed.
        model.policy = policies.TopR(t % 40) if t < EVERY / 2 else rules[0] if still else rules[t // 500 % 2]
        picture = camera.picture(still)
        out = model(picture)
        if phase == 0 or phase > EVERY - YOUNG:
            young_out, young = model.step(picture, young)
        if phase == EVERY - STILL:
            dense = model.vit(picture)
            old_moving.append(off(out, dense))
            young_moving.append(off(young_out, dense))
        if phase == 0:
            dense = model.vit(picture)
            sums.append(sums_error(model.state))
            settled.append(off(out, dense))
            model.policy = policies.All()
            refreshed.append(off(model.step(picture, model.state.clone())[0], model.step(picture, None)[0]))
            young = None
            memory.look()
    tenth, half = max(len(sums) // 10, 1), max(len(sums) // 2, 1)
    held = memory.growth() < GROWTH and max(sums) < SUMS and max(refreshed) < FRESH
    held = held and np.mean(old_moving[-half:]) < DRIFT * np.mean(old_moving[:half])
    # The published update stays an approximation on a standing picture, too.
    held = held and (mode == "gate/paper" or max(settled) < FRESH)
    print(f"{mode}: {frames} frames, {memory}")
    for what, seen in (("attention sums against what they are of", sums), ("picture stands still, off", settled)):
        print(f"  {what}: first tenth {max(seen[:tenth]):.1e}, last tenth {max(seen[-tenth:]):.1e}")
    print(f"  all tokens updated, against a fresh state: {max(refreshed):.1e}")
    halves = f"first half {np.mean(old_moving[:half]):.3f}, second half {np.mean(old_moving[-half:]):.3f}"
    young = f"a stream of {YOUNG - STILL} frames {np.mean(young_moving):.3f}"
    print(f"  picture moves, off (means of {len(old_moving)}): {halves}; {young}", flush=True)
    return report(held)


class Guest:
    """A stream of the churn: its camera, and the same stream run alone, told which tokens the batch updated."""

    def __init__(self, seed: int) -> None:
        self.camera = Camera(seed)
        self.alone: eventful.StreamState | None = None

    def check(self, model: eventful.EventfulModel, picture: Tensor, masks: list[Tensor], out: Tensor) -> float:
        told: Iterator[Tensor] = iter(masks)
        _, want, self.alone = model.step_with_features(
            picture, self.alone, lambda _: policies.Selection(mask_BN=next(told))
        )
        return off(out, want)


MOST = 6
"""Streams that are there at a time."""


def all_row_counts(model: eventful.EventfulModel) -> None:
    """Frames of which every number of rows is updated once, in up to as many streams as there will be.

    oneDNN keeps what it makes for a number of rows, and so does PyTorch's layer above it, a thousand of each.
    """
    pictures = torch.cat([Camera(seed).picture() for seed in range(MOST)])
    for streams in range(1, MOST + 1):
        _, state = model.step(pictures[:streams], None)
    tokens = model.layout(pictures).tokens
    for rows in range(MOST * tokens + 1):
        mask_BN = (torch.arange(MOST * tokens) < rows).view(MOST, tokens)
        *_, state = model.step_with_features(
            pictures, state, lambda _, mask_BN=mask_BN: policies.Selection(mask_BN=mask_BN)
        )


def churn(mode: str, frames: int) -> bool:
    """Streams that join and leave all the time, against each of them alone."""
    model, memory = a_model(policies.AgeBound(policies.Threshold(1.0), 40), **MODES[mode]), Memory()
    chance, guests, worst, joined, left, largest = random.Random(0), [Guest(0)], 0.0, 1, 0, 1
    all_row_counts(model)
    ages_equal = True
    for t in range(1, frames + 1):
        state = model.state
        if state is not None and len(guests) > 1 and chance.random() < 0.12:
            stay = sorted(chance.sample(range(len(guests)), chance.randrange(1, len(guests))))
            left += len(guests) - len(stay)
            guests, model.state = [guests[i] for i in stay], state.select(stay)
        if model.state is not None and len(guests) < MOST and chance.random() < 0.2:
            guests.append(Guest(joined))
            joined += 1
            join(model, guests, by_copy=chance.random() < 0.5)
        if chance.random() < 0.01:
            again = chance.randrange(len(guests))
            model.reset(streams=[again])
            if guests[again].alone is not None:
                guests[again].alone.flush_B[:] = True
        largest = max(largest, len(guests))
        pictures = [guest.camera.picture() for guest in guests]
        masks: list[Tensor] = []
        step = model.step_with_features(torch.cat(pictures), model.state, noting(model.policy, masks))
        model.state = step[2]
        ages_BGN = step[2].ages()
        for i, guest in enumerate(guests):
            found = guest.check(model, pictures[i], [mask[i : i + 1] for mask in masks], step[1][i : i + 1])
            worst = max(worst, found)
            ages_equal = ages_equal and torch.equal(ages_BGN[i], guest.alone.ages()[0])
        if t % EVERY == 0:
            memory.look()
    print(f"{mode}: {frames} frames of up to {largest} streams, {joined} joined, {left} left, {memory}")
    print(
        f"  every frame of every stream, against the stream alone: at most {worst:.1e}; ages equal: {ages_equal}",
        flush=True,
    )
    return report(memory.growth() < GROWTH and worst < FRESH and ages_equal)


def join(model: eventful.EventfulModel, guests: list[Guest], by_copy: bool) -> None:
    """Makes room for the last of the guests, by one of the two ways of the public interface."""
    state, newest = model.state, guests[-1]
    if by_copy:
        model.state = state.select([*range(state.streams), 0])
        model.reset(streams=[state.streams])
        return
    # It has been running by itself before it joins.
    _, newest.alone = model.step(newest.camera.picture(), None)
    model.state = eventful.StreamState.cat([state, newest.alone.clone()])


def noting(policy: policies.Policy, masks: list[Tensor]) -> Callable[[policies.GateObservation], policies.Selection]:
    def decide(seen: policies.GateObservation) -> policies.Selection:
        selection = policy.select(seen)
        masks.append(selection.as_mask(seen.layout.tokens))
        return selection

    return decide


class Footage(FrameReader):
    """A source that does not end, cut where it pleases."""

    source, fps, count, live = "soak", 25.0, None, True

    def __iter__(self) -> Iterator[Frame]:
        camera, k = Camera(7), 0
        while True:
            self.cuts += k % 5000 == 4999
            k += 1
            yield ((camera.picture()[0].permute(1, 2, 0) * 40 + 128).clamp(0, 255)).byte().numpy()


class Looking:
    """A task for the runner: what it shows of an output is its largest class."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.class_names, self.name = model, tuple("abcde"), "looking"

    def preprocess(self, frames_BHWC: Tensor) -> Tensor:
        return (frames_BHWC.permute(0, 3, 1, 2).float() - 128) / 40

    def predictions(self, outputs: Tensor, size: tuple[int, int]) -> list[list[dict[str, Any]]]:
        return [[{"label": int(row.argmax()), "score": float(row.max())}] for row in outputs]


def service(frames: int) -> bool:
    """What `eventful-infer --json --dense-check 10 --fps` does, for as long as asked."""
    fraction = policies.TopFraction(0.2)
    model, memory, summary = a_model(Budgeted(fraction)), Memory(), Summary()
    runner = VideoRunner(model, Looking(model.vit), dense_every=10)  # type: ignore[arg-type]
    source = Footage()
    with tempfile.NamedTemporaryFile("w") as lines:
        results = run_frames(source, runner, None, frames, Pace(400.0))
        for t, result in enumerate(results, 1):
            summary.add(result)
            write_line(result, lines.file)  # type: ignore[arg-type]
            if t % EVERY == 0:
                memory.look()
    print(f"eventful-infer: {frames} frames, {memory}", *summary.lines(source), sep="\n  ", flush=True)
    return report(memory.growth() < GROWTH)


class Budgeted(policies.Policy):
    """A share of the tokens that may be turned."""

    def __init__(self, inner: policies.TopFraction) -> None:
        self.inner = inner

    @property
    def budget(self) -> float:
        return self.inner.fraction

    @budget.setter
    def budget(self, value: float) -> None:
        self.inner.fraction = value

    def select(self, observation: policies.GateObservation) -> policies.Selection:
        return self.inner.select(observation)


def report(held: bool) -> bool:
    print("  limits held" if held else "  LIMITS BROKEN", flush=True)
    return held


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", nargs="*", choices=MODES, default=list(MODES))
    parser.add_argument("--churn-modes", nargs="*", choices=MODES, default=["frame", "gate/exact", "gate/paper"])
    parser.add_argument("--frames", type=int, default=100_000, help="of one stream, in each mode")
    parser.add_argument("--churn", type=int, default=20_000, help="of streams that join and leave, in each mode")
    parser.add_argument("--service", type=int, default=30_000, help="through the runner of eventful-infer")
    args = parser.parse_args()
    torch.set_num_threads(1)
    held = [one_stream(mode, args.frames) for mode in args.modes if args.frames]
    held += [churn(mode, args.churn) for mode in args.churn_modes if args.churn]
    held += [service(args.service)] if args.service else []
    raise SystemExit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
