"""Settings of `python -m train.paper.detection`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from envs.vid.labelled import Layout
from envs.vid.sequences import Empty
from eventful.checks.ranges import THREADS, setting


@dataclass
class PaperConfig:
    """A table of the paper: detections on videos with boxes, over ways to run the detector.

    Attributes:
        root: Folder of the videos.
        layout: Layout of the set: `official`, `published` or `coco` (see envs/vid/labelled.py).
        split: Split to evaluate on, as the set calls it.
        classes: Names of the classes; those of ImageNet VID if not given.
        empty: Whether frames without objects are kept (`keep`) or left out, and sequences cut there (`drop`).
        step: Largest step from one frame number to the next of the same sequence.
        max_sequences: Number of sequences, the first ones; all if not given.
        weights: Weights of the detector, as `python -m envs.convert` writes them; random if not given.
        canvas: Side of the canvas in pixels.
        proposals: Most proposals of a frame.
        architecture: Arguments of the backbone that are not those of ViTDet-B (eventful/families/vitdet.py: vitdet).
        rows: Rows of the table, as VARIANT:RULE, such as `eventful:top-r:512` (see train/paper/rows.py).
        half: Whether the paper's attention update multiplies in float16, as published.
        out: Folder for results and table; what it has already is not computed again.
        device: Device of the detector.
        threads: Number of threads; 0 for torch's choice. Results are the same to the bit for the same number.

    Examples:
        python -m train.paper.detection configs/vid_672.yaml root=ILSVRC2015 weights=vid.safetensors out=runs/vid_672
    """

    root: str = "???"
    layout: Layout = "official"
    split: str = "val"
    classes: list[str] | None = None
    empty: Empty = "drop"
    step: int = setting(1, "[1, 1e6]")
    max_sequences: int | None = setting(None, "[1, 1e7]")
    weights: str | None = None
    canvas: int = setting(672, "[16, 16384]")
    proposals: int = setting(300, "[1, 1e5]")
    architecture: dict[str, Any] = field(default_factory=dict)
    rows: list[str] = field(default_factory=lambda: ["dense"])
    half: bool = True
    out: str = "runs/paper"
    device: str = "cpu"
    threads: int = setting(0, THREADS)
