"""Writes the page of all settings.

python -m train.reference out=docs/settings.md
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eventful import cli
from eventful.infer.arguments import parser
from train.benchmark import BenchmarkConfig
from train.config import load_config
from train.config_keys import documented
from train.curves import CurvesConfig
from train.detector.train import DetectorConfig
from train.evaluate_config import EvaluateConfig
from train.paper.actions_config import ActionsConfig
from train.paper.detection_config import PaperConfig
from train.report import ReportConfig
from train.train_config import TrainConfig
from train.tuning.tune_config import TuneConfig
from train.verbs.train import VerbsConfig
from train.vitdet.train import VitdetConfig

COMMAND = "python -m train.reference"

COMMANDS: dict[str, Any] = {
    "eventful-train": TrainConfig,
    "eventful-evaluate": EvaluateConfig,
    "eventful-benchmark": BenchmarkConfig,
    "eventful-tune": TuneConfig,
    "python -m train.verbs": VerbsConfig,
    "python -m train.vitdet": VitdetConfig,
    "python -m train.detector": DetectorConfig,
    "python -m train.paper.detection": PaperConfig,
    "python -m train.paper.actions": ActionsConfig,
    "python -m train.report": ReportConfig,
    "python -m train.curves": CurvesConfig,
}

HEAD = """# Settings

All commands but `eventful-infer` take a YAML file and `key=value`, `--print-config`, `--help` and `--version`. A range
is an interval: `[1, 256]` with its ends, `(0, 1)` without them. What is set and not read by anything is refused, as is
what is out of range.

This page is made by `python -m train.reference out=docs/settings.md`.
"""


@dataclass
class ReferenceConfig:
    """The page of all settings.

    Attributes:
        out: Path of the page, Markdown.
    """

    out: str = "docs/settings.md"


def page() -> str:
    """The page, Markdown."""
    parts = [HEAD, "## eventful-infer", *_arguments(parser("eventful-infer"))]
    for command, config in COMMANDS.items():
        parts += [f"## {command}", "| key | type | default | |\n|---|---|---|---|\n" + "\n".join(_rows(config))]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _rows(config: Any) -> Iterator[str]:
    for key in documented(config):
        kind = f"`{key.kind}`" + (f" in {key.within}" if key.within else "")
        yield _row(f"`{key.path}`", kind, "required" if key.required else f"`{key.default}`", key.text)


def _arguments(of: argparse.ArgumentParser) -> Iterator[str]:
    rows = []
    for action in of._actions:
        name = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.dest}`"
        choices = "" if action.choices is None else " | ".join(map(str, action.choices))
        value = action.metavar if isinstance(action.metavar, str) else choices
        rows.append(_row(name, value, action.help or ""))
    yield "| argument | value | |\n|---|---|---|\n" + "\n".join(rows)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _main(argv: Sequence[str]) -> None:
    path = Path(load_config(ReferenceConfig, argv, COMMAND).out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page())
    print(path)


def main() -> None:
    """Console entry point."""
    cli.run(COMMAND, _main)
