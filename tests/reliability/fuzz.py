"""Damaged files and random command lines: every one must end well, or with an error that commands show as one line.

    OMP_NUM_THREADS=1 python tests/reliability/fuzz.py --inputs 1000                # hypothesis, minutes
    OMP_NUM_THREADS=1 python tests/reliability/fuzz.py --engine atheris --seconds 60 --target "images"

`hypothesis` changes whole files in a few places, or replaces a value in them by another; `atheris` (if it is installed;
`pip install atheris`) is led by the branches that an input takes in this package's readers. Says how many inputs there
were, and shows the traceback and the shortest input of every crash.
"""

# ruff: noqa: E402 (the tests' commands are beside this folder)
import argparse
import io
import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS), str(TESTS / "test_checks")]

import numpy as np
import safetensors.torch
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from test_command_lines import COMMANDS, INFER, VALUES, check

import policies
from envs.actions import EpicKitchens, Kinetics400
from envs.backbones import read_weights
from envs.convert.arrays import read_arrays
from envs.vid.coco_video import read_coco_video
from envs.vid.official import read_official
from envs.vivit.videos import ListedVideos
from eventful import cli
from eventful.errors import EventfulError
from eventful.infer import command as infer
from eventful.video import read_frames
from train.config import load_config
from train.config_keys import leaves
from train.evaluation.results_file import read_finished
from train.loop import history
from train.train_config import TrainConfig

ALLOWED = (EventfulError, OSError, policies.CheckpointError)
"""What commands turn into one line."""


@dataclass(frozen=True)
class Target:
    """A reader of files.

    Attributes:
        name: Name of the file that it reads, in a folder of its own.
        whole: Contents of whole files.
        read: Reads the folder.
    """

    name: str
    whole: Sequence[bytes]
    read: Callable[[Path], object]


def pictures() -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image, found = Image.fromarray(noise), {}
    for suffix in ("png", "jpeg", "gif", "webp", "tiff", "bmp"):
        to = io.BytesIO()
        image.save(to, suffix)
        found[suffix] = to.getvalue()
    return found


def checkpoint(part: str) -> bytes:
    with tempfile.TemporaryDirectory() as place:
        policies.LearnedPolicy(1, 4, hidden=2, projections=0).save_pretrained(place)
        return (Path(place) / part).read_bytes()


def beside_a_whole(part: str) -> Callable[[Path], object]:
    """Loads a checkpoint one of whose files is the one in question."""

    def read(folder: Path) -> object:
        for other in {"config.json", "model.safetensors"} - {part}:
            (folder / other).write_bytes(WHOLE[other])
        return policies.load(folder)

    return read


WHOLE = {part: checkpoint(part) for part in ("config.json", "model.safetensors")}

COCO = {
    "videos": [{"id": 1, "name": "a"}],
    "images": [{"id": 1, "file_name": "a/0.jpg", "video_id": 1, "frame_id": 0, "width": 16, "height": 12}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
}
XML = b"""<annotation><folder>a</folder><filename>000000</filename><size><width>16</width><height>12</height></size>
<object><trackid>0</trackid><name>n02084071</name><bndbox><xmax>9</xmax><xmin>1</xmin><ymax>8</ymax><ymin>2</ymin></bndbox>
</object></annotation>"""
EPIC = b"""narration_id,participant_id,video_id,start_timestamp,stop_timestamp,start_frame,stop_frame,verb_class
P01_0,P01,P01_01,00:00:00.00,00:00:02.00,1,120,3
"""
KINETICS = b"label,youtube_id,time_start,time_end,split\nabseiling,abcdefghijk,3,13,val\n"


def weights() -> list[bytes]:
    tensors = {"a.weight": torch.zeros(2, 2), "b": torch.ones(3)}
    to = io.BytesIO()
    torch.save({"state_dict": tensors}, to)
    return [safetensors.torch.save(tensors), to.getvalue()]


def of_a_policy(folder: Path) -> object:
    return load_config(TrainConfig, [str(folder / "a.yaml")])


def official(folder: Path) -> object:
    for kind, file, content in (
        ("ImageSets", "val.txt", b"a/000000 1\n"),
        ("Data", "val/a/000000.JPEG", b""),
        ("Annotations", "val/a/000000.xml", (folder / "a.xml").read_bytes()),
    ):
        path = folder / kind / "VID" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return read_official(folder, "val")


def in_place(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Puts the file where a set expects it."""

    def read(folder: Path) -> object:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((folder / "a").read_bytes())
        return make(folder)

    return read


def all_frames(folder: Path) -> object:
    path = next(folder.iterdir())
    return [frame.shape for frame in read_frames(path)]


YAML = [b"steps: 3\nlr: 1e-3\nobjective: {fidelity: 1.0}\npolicy_budgets: [0.1, 0.3]\ntask_options: {video: a.mp4}\n"]
LINE = {"step": 0, "minutes": 0.1, "points": [{"policy": "learned", "budget": 0.1, "share": 0.1, "reward": -1.0}]}
RESULTS = b'{"format": 1, "fingerprint": "a", "setting": {}}\n{"kind": "run"}\n'

TARGETS: Mapping[str, Target] = {
    "config files": Target("a.yaml", YAML, of_a_policy),
    "checkpoints, settings": Target("config.json", [WHOLE["config.json"]], beside_a_whole("config.json")),
    "checkpoints, tensors": Target(
        "model.safetensors", [WHOLE["model.safetensors"]], beside_a_whole("model.safetensors")
    ),
    "weights": Target("a.pth", weights(), lambda folder: read_weights(folder / "a.pth")),
    "weights, .safetensors": Target("a.safetensors", weights(), lambda folder: read_weights(folder / "a.safetensors")),
    "checkpoints to convert": Target("a.pth", weights(), lambda folder: read_arrays(folder / "a.pth")),
    "annotations, COCO": Target(
        "a.json", [json.dumps(COCO).encode()], lambda folder: read_coco_video(folder / "a.json")
    ),
    "annotations, ImageNet VID": Target("a.xml", [XML], official),
    "tables, listed": Target(
        "a.csv",
        [b"video,label,split\na.mp4,0,train\n"],
        lambda folder: ListedVideos(str(folder / "a.csv")).videos("train"),
    ),
    "tables, EPIC": Target(
        "a", [EPIC], in_place("EPIC_100_train.csv", lambda folder: EpicKitchens(folder).videos("train"))
    ),
    "tables, Kinetics": Target("a", [KINETICS], in_place("val.csv", lambda folder: Kinetics400(folder).videos("val"))),
    "images": Target("a.png", list(pictures().values()), all_frames),
    "histories": Target("history.jsonl", [json.dumps(LINE).encode() + b"\n"], history.read),
    "results": Target(
        "results.jsonl", [b'{"format": 1, "fingerprint": "a", "setting": {}}\n{"kind": "run"}\n'], read_finished
    ),
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values in plain data."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [at, *(path for key, value in inner for path in places(value, (*at, key)))]


def put(node: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(node) if isinstance(node, dict) else list(node)
    copy[path[0]] = put(copy[path[0]], path[1:], value)
    return copy


@st.composite
def damaged(draw: st.DrawFn, whole: Sequence[bytes]) -> bytes:
    """A whole file with changes, or bytes that were never one."""
    kind = draw(st.sampled_from(["bytes", "splice", "splice", "splice", "value"]))
    content = draw(st.sampled_from(list(whole)))
    if kind == "bytes":
        return draw(st.binary(max_size=200))
    if kind == "value":
        try:
            node = json.loads(content)
        except ValueError:
            kind = "splice"
        else:
            path = draw(st.sampled_from(places(node)))
            return json.dumps(put(node, path, draw(JSON))).encode() + b"\n"
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(start + 12, len(content))))
        content = content[:start] + draw(st.binary(max_size=6)) + content[end:]
    return content


def feed(target: Target, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / target.name).write_bytes(content)
        try:
            target.read(folder)
        except ALLOWED as error:
            assert cli.one_line(error).count("\n") == 0


HOW: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    "phases": (Phase.generate, Phase.shrink),
}


def by_hypothesis(name: str, target: Target, inputs: int, number: int) -> None:
    count = 0

    @seed(number)
    @settings(max_examples=inputs, **HOW)
    @given(damaged(target.whole))
    def run(content: bytes) -> None:
        nonlocal count
        count += 1
        feed(target, content)

    try:
        run()
    finally:
        print(f"{name}: {count} inputs", flush=True)


def command_lines(inputs: int, number: int) -> None:
    """Random words for all commands. What a training command would accept, it prints instead of running it."""
    mains = {name: (main, [leaf.path for leaf in leaves(config)]) for name, (main, config) in COMMANDS.items()}
    each, count = -(-inputs // (len(mains) + 1)), 0
    for main, known in mains.values():
        keys = st.one_of(st.sampled_from(known), st.sampled_from(known).map(lambda key: f"{key}x"), VALUES)
        words = st.lists(st.tuples(keys, VALUES).map("=".join) | VALUES, max_size=4)

        @seed(number)
        @settings(max_examples=each, **HOW)
        @given(st.just(main), words)
        def run(main: Any, argv: list[str]) -> None:
            nonlocal count
            count += 1
            check(main, [*argv, "--print-config"])

        run()

    @seed(number)
    @settings(max_examples=each, **HOW)
    @given(st.lists(st.sampled_from(INFER) | VALUES, max_size=6))
    def run_infer(argv: list[str]) -> None:
        nonlocal count
        count += 1
        check(infer._main, ["no such video.mp4", *argv])

    run_infer()
    print(f"command lines of {len(mains) + 1} commands: {count} inputs", flush=True)


def by_atheris(name: str, target: Target, seconds: int) -> None:
    import atheris

    count = 0

    def one(content: bytes) -> None:
        nonlocal count
        count += 1
        feed(target, content)

    # The readers of this package are told apart by their branches; libraries are as they are.
    atheris.instrument_func(target.read)
    with tempfile.TemporaryDirectory() as corpus:
        for k, content in enumerate(target.whole):
            (Path(corpus) / str(k)).write_bytes(content)
        options = [sys.argv[0], corpus, f"-max_total_time={seconds}", "-max_len=4096", "-rss_limit_mb=0"]
        atheris.Setup([*options, "-print_final_stats=1"], one)
        print(f"{name}, by atheris for {seconds} s", flush=True)
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["hypothesis", "atheris"], default="hypothesis")
    parser.add_argument("--target", choices=TARGETS, nargs="+", default=list(TARGETS))
    parser.add_argument("--inputs", type=int, default=1000, help="for each target (hypothesis)")
    parser.add_argument("--command-lines", type=int, default=500, help="over all commands (hypothesis)")
    parser.add_argument("--seconds", type=int, default=60, help="for the target (atheris)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.engine == "atheris":
        by_atheris(args.target[0], TARGETS[args.target[0]], args.seconds)
        return
    crashes = 0
    runs = [partial(by_hypothesis, name, TARGETS[name], args.inputs, args.seed) for name in args.target]
    for run in [*runs, partial(command_lines, args.command_lines, args.seed)] if args.command_lines else runs:
        try:
            run()
        except Exception:
            crashes += 1
            traceback.print_exc()
    print(f"{crashes} crashes")
    raise SystemExit(1 if crashes else 0)


if __name__ == "__main__":
    main()
