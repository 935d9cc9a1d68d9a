"""Damaged files and random command lines: every one must end well, or with an error that commands show as one line.

    OMP_NUM_THREADS=1 python tests/reliability/fuzz.py --inputs 1000                # hypothesis, minutes
    OMP_NUM_THREADS=1 python tests/reliability/fuzz.py --engine atheris --seconds 60 --target "images"

`hypothesis` changes whole files in a few places, or replaces a value in them by another; `atheris` (if it is installed;
`pip install atheris`) is led by the branches that an input takes in Python. Says how many inputs there were, and shows
the traceback and the shortest input of every crash.
"""

# ruff: noqa: E402 (the tests' commands are beside this folder)
import argparse
import json
import sys
import tempfile
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS), str(TESTS / "test_checks")]

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from targets import TARGETS, Target
from test_command_lines import COMMANDS, INFER, VALUES, check

import policies
from eventful import cli
from eventful.errors import EventfulError
from eventful.infer import command as infer
from train.config_keys import leaves

ALLOWED = (EventfulError, OSError, policies.CheckpointError)
"""What commands turn into one line."""


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


def readers() -> list[Any]:
    """Functions and methods of this package, and those of the libraries in Python that it reads files with."""
    known = ("policies", "eventful", "envs", "train", "json", "csv", "yaml", "PIL")
    found: list[Any] = []
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in known:
            held = [value for value in vars(module).values() if getattr(value, "__module__", None) == name]
            held += [inner for value in held if isinstance(value, type) for inner in vars(value).values()]
            found += [value for value in held if isinstance(value, FunctionType)]
    return found


def by_atheris(name: str, target: Target, seconds: int) -> None:
    import atheris

    count = 0

    def one(content: bytes) -> None:
        nonlocal count
        count += 1
        feed(target, content)

    for function in readers():
        atheris.instrument_func(function)
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
