"""Arguments of `eventful-infer`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from os.path import expanduser
from typing import get_args

import policies
from eventful.console.options import Parser
from eventful.devices import DTYPES
from eventful.live.reconnect import OnError
from eventful.user_code import LEARNED
from policies.protocol import Granularity, Policy

BudgetSchedule = list[tuple[int, float]]
"""(first frame, budget from there on), ascending."""

HEURISTICS: Mapping[str, tuple[Callable[..., Policy], Callable[[str], float] | None]] = {
    "top-r": (policies.TopR, int),
    "top-fraction": (policies.TopFraction, float),
    "threshold": (policies.Threshold, float),
    "random": (policies.Random, float),
    "periodic": (policies.Periodic, int),
    "all": (policies.All, None),
    "nothing": (policies.Nothing, None),
}


EXAMPLES = (
    "eventful-infer clip.mp4 --policy doom --budget 0.2 --out annotated.mp4",
    "eventful-infer clip.mp4 --policy runs/demo/policy --budget-schedule 0:0.3,100:0.1 --json predictions.jsonl",
    "eventful-infer /dev/video0 --policy runs/street/policy --fps 15 --on-error flush",
    "eventful-infer clip.mp4 --policy doom --preview",
    "eventful-infer clip.mp4 --policy doom --budget 0.1 --compare dense,top-r,learned --out side-by-side.mp4",
    "eventful-infer street.mp4 --heuristic top-r:40 --task distill --model vit_small_patch14_dinov2 --weights vit.pth",
)


def parser(command: str) -> Parser:
    """The command's parser; bad arguments raise `UserError`."""
    p = Parser(command, "Run a policy checkpoint on live or stored video.", EXAMPLES)
    p.add_argument(
        "video",
        type=expanduser,
        help="video or picture file, stream address, camera (/dev/video0), folder of images",
    )
    which = p.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--policy",
        metavar="DIR",
        type=expanduser,
        help="policy checkpoint: a folder, the name of an installed one (doom), or OWNER/NAME on the model hub",
    )
    which.add_argument(
        "--heuristic", metavar="NAME[:VALUE]", type=heuristic, help=f"instead of a checkpoint: {_heuristic_forms()}"
    )

    out = p.add_argument_group("output")
    out.add_argument(
        "--out",
        metavar="FILE",
        type=expanduser,
        help="annotated video to write (.mp4, .mkv), or animated picture (.webp)",
    )
    out.add_argument(
        "--json",
        metavar="FILE",
        type=expanduser,
        help="predictions and costs to write, one JSON object a frame; - for stdout",
    )
    out.add_argument(
        "--overlay",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="draw updated tokens and costs into --out",
    )
    out.add_argument(
        "--dense-check", metavar="N", type=_natural, default=0, help="compare every Nth frame with the dense model"
    )

    out.add_argument(
        "--preview",
        action="store_true",
        help="show the annotated frames in a window (extra preview): + and - (or up and down) turn the budget, space "
        "pauses, q ends; with --fps the budget is turned already, with --compare it is one for all",
    )
    out.add_argument(
        "--compare",
        metavar="NAME,...",
        type=lambda text: text.split(","),
        help="run several policies side by side at the same budget: learned (that of --policy), dense, top-r, "
        "saliency, random, periodic, nothing; beside --out, OUT-updates.png shows where updates went, OUT-motion.png "
        "when",
    )

    budget = p.add_mutually_exclusive_group()
    budget.add_argument("--budget", metavar="SHARE", type=_share, help="share of the dense MACs, in (0, 1]")
    budget.add_argument(
        "--budget-schedule", metavar="FRAME:SHARE,...", type=schedule, help="such as 0:0.3,100:0.1,200:0.05"
    )
    budget.add_argument(
        "--fps", metavar="TARGET", type=_positive, help="frames per second to hold: turns the budget at every frame"
    )

    model = p.add_argument_group("model; by default what the checkpoint was trained with")
    model.add_argument("--task", metavar="NAME", help="task that supplies the model: doom, distill, MODULE:CLASS")
    model.add_argument("--model", metavar="NAME", help="timm name of the model, or hf:NAME (task distill)")
    model.add_argument(
        "--weights",
        metavar="FILE",
        type=expanduser,
        help="weights of the model, of hf:NAME a folder (tasks distill, vid, actions)",
    )
    model.add_argument("--head", metavar="MODULE:FUNCTION", help="your own head on the model's tokens (task distill)")
    model.add_argument("--size", metavar="HxW", type=_size, help="input size of the model (task distill)")
    model.add_argument(
        "--policy-class", metavar="MODULE:CLASS", default=LEARNED, help="class of the policy, if it is your own"
    )
    model.add_argument(
        "--trust",
        action="store_true",
        help="open the files that a checkpoint names although it was not trained here",
    )
    model.add_argument("--granularity", choices=get_args(Granularity), help="one decision per gate or per frame")

    run = p.add_argument_group("run")
    run.add_argument("--device", help="such as cuda:0; the first GPU if there is one, else the CPU")
    run.add_argument("--dtype", choices=tuple(DTYPES), default="float32")
    run.add_argument("--max-frames", metavar="N", type=_natural, help="stop after N frames")
    run.add_argument(
        "--on-error",
        choices=get_args(OnError),
        default="stop",
        help="what a live source does that breaks, falls silent or changes its size: end the run (stop), or come back, "
        "and go on anew (flush) or from what was known (skip)",
    )
    run.add_argument("--source-fps", type=_positive, help="frames per second of still pictures (25)")
    return p


def heuristic(text: str) -> Policy:
    """`top-r:40` to a policy.

    Raises:
        ArgumentTypeError: If there is no such policy, or its value is wrong.
    """
    name, _, value = text.partition(":")
    if name not in HEURISTICS:
        raise argparse.ArgumentTypeError(f"there is no heuristic {name!r}; there are {_heuristic_forms()}")
    factory, kind = HEURISTICS[name]
    if (kind is None) != (not value):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form {_form(name)}")
    try:
        return factory() if kind is None else factory(kind(value))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def schedule(text: str) -> BudgetSchedule:
    """`0:0.3,100:0.1` to [(0, 0.3), (100, 0.1)].

    Raises:
        ArgumentTypeError: If the text has another form, or the frames do not ascend.
    """
    parts = [part.split(":") for part in text.split(",")]
    try:
        entries = [(int(frame), _share(share)) for frame, share in parts]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form FRAME:SHARE,FRAME:SHARE") from error
    frames = [frame for frame, _ in entries]
    if frames != sorted(set(frames)) or frames[0] < 0:
        raise argparse.ArgumentTypeError(f"the frames of {text!r} must ascend from 0 or later")
    return entries


def _form(name: str) -> str:
    kind = HEURISTICS[name][1]
    return name if kind is None else f"{name}:{'N' if kind is int else 'X'}"


def _heuristic_forms() -> str:
    return ", ".join(_form(name) for name in HEURISTICS)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def _share(text: str) -> float:
    value = _number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share of the dense MACs: it must be in (0, 1]")
    return value


def _natural(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)


def _positive(text: str) -> float:
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def _size(text: str) -> list[int]:
    height, by, width = text.partition("x")
    if not (by and height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form HEIGHTxWIDTH, such as 224x224")
    return [int(height), int(width)]
