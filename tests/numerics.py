"""A proof for refactors: everything that a model, a training and an evaluation compute, to the last bit.

    python tests/numerics.py before.safetensors                        # on the old code
    python tests/numerics.py after.safetensors --against before.safetensors

Runs every model family in every mode, eight windows of both estimators in both granularities on Doom detection, and one
evaluation; writes all results, and with `--against` lists what differs and by how much. Public names only, so that it
runs on both sides of a change; fixed seeds, one thread.
"""

import argparse
import csv
import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

import safetensors.torch
import torch
from family_zoo import ZOO, build, clip

import eventful
import policies

MODES = {
    "gate/exact": {},
    "gate/paper": {"attention": "paper"},
    "gate/recompute": {"attention": "recompute"},
    "gate/before_norm": {"gate_position": "before_norm"},
    "gate/previous": {"reference": "previous"},
    "frame": {"granularity": "frame"},
}
POLICIES = {
    "top-r": lambda: policies.TopR(6),
    "most": lambda: policies.TopR(14),
    "ragged": lambda: policies.Threshold(2.0),
    "global": lambda: policies.GlobalTopR(8),
}
TRAINING = "steps=8 segment=4 window=4 streams=2 calibration_streams=4 calibration_frames=9 policy_budgets=[0.1,0.3]"
KINDS = {
    "gumbel": "estimator=gumbel warm_start=oracle oracle_frames=6",
    "reinforce": "estimator=reinforce warm_start=none rollouts=3 far=0.2",
    "metric": "estimator=reinforce warm_start=none rollouts=2 reward=metric",
}


def models() -> dict[str, torch.Tensor]:
    """Outputs and MACs of every family, mode and policy; packed and masked, with a reset on the way."""
    found = {}
    cases = itertools.product(ZOO, MODES.items(), POLICIES.items())
    for family, (mode, options), (rule, policy) in cases:
        if mode not in ("gate/exact", "frame") and rule in ("most", "global"):
            continue
        model = eventful.wrap(build(family), policy(), **options)
        state, name = None, f"{family}/{mode}/{rule}"
        with torch.no_grad():
            for t, frame in enumerate(clip(6, streams=2)):
                out = model(frame)
                masked, state = model.step(frame, state, masked=True)
                found[f"{name}/{t}/packed"], found[f"{name}/{t}/masked"] = out, masked
                found[f"{name}/{t}/macs"] = model.macs.total
                found |= {f"{name}/{t}/macs {key}": value for key, value in model.macs.by_operation.items()}
                if t == 3:
                    model.reset(streams=[1])
    return {name: value.detach().clone().contiguous() for name, value in found.items()}


def trainings(folder: Path) -> dict[str, torch.Tensor]:
    """Weights of trained policies."""
    found = {}
    for (kind, options), granularity in itertools.product(KINDS.items(), ("frame", "gate")):
        out = folder / f"{kind}-{granularity}"
        words = [*TRAINING.split(), *options.split(), f"granularity={granularity}", "threads=1", f"out={out}"]
        subprocess.run([sys.executable, "-m", "train.policy", *words], check=True)
        weights = safetensors.torch.load_file(out / "policy" / "model.safetensors")
        found |= {f"{kind}-{granularity}/{name}": value for name, value in weights.items()}
    return found


def evaluation(folder: Path) -> dict[str, torch.Tensor]:
    """The table of an evaluation of one of the trained policies."""
    words = ["split=test", "max_clips=4", "max_frames=16", "budgets=[0.1,0.3]", "latency=false", "plots=false"]
    words += ["calibration_streams=4", "calibration_frames=9", "threads=1", f"policy={folder / 'gumbel-frame/policy'}"]
    names = ["Learned", "LearnedTop", "CalibratedThreshold", "GlobalTopR@gate", "TopR", "Threshold@gate", "Random"]
    words += [f"policies=[{','.join(names)}]", f"out={folder / 'evaluation'}"]
    subprocess.run([sys.executable, "-m", "train.evaluate", *words], check=True)
    rows = list(csv.DictReader((folder / "evaluation" / "table.csv").open()))
    figures = {}
    for row in rows:
        for column, text in row.items():
            if column not in ("policy", "setting", "budget") and text:
                figures[f"table/{row['policy']}@{row['budget']}/{column}"] = torch.tensor(float(text)).double()
    return figures


def differences(new: dict[str, torch.Tensor], old: dict[str, torch.Tensor]) -> list[str]:
    """What is not equal to the bit, one line each."""
    lines = [f"only in one of them: {name}" for name in sorted(new.keys() ^ old.keys())]
    for name in sorted(new.keys() & old.keys()):
        if not torch.equal(new[name].nan_to_num(), old[name].nan_to_num()):
            lines.append(f"{name}: {float((new[name].double() - old[name].double()).abs().max()):.3g}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--against")
    parser.add_argument("--models-only", action="store_true", help="seconds instead of minutes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = models()
    if not arguments.models_only:
        with tempfile.TemporaryDirectory() as folder:
            found |= trainings(Path(folder))
            found |= evaluation(Path(folder))
    safetensors.torch.save_file(found, arguments.out)
    print(f"{len(found)} tensors")
    if arguments.against:
        old = safetensors.torch.load_file(arguments.against)
        if arguments.models_only:
            old = {name: value for name, value in old.items() if name.split("/")[0] in ZOO}
        found_lines = differences(found, old)
        print("\n".join([*found_lines, f"{len(found_lines)} differences in {len(found)} tensors"]))


if __name__ == "__main__":
    main()
