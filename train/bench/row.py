"""One line of the benchmark's table."""

from __future__ import annotations

from dataclasses import dataclass

from train.bench.run import Timing


@dataclass(frozen=True)
class Row:
    """One mode of a case.

    Attributes:
        size: Side of the frames in pixels.
        tokens: Number N of tokens of a frame.
        r: Tokens that each gate selects.
        mode: Name of the mode, one of `train.bench.case.MODES`.
        state_bytes: Bytes of one stream's state, from shapes.
        timing: Measured times; None if the mode was skipped.
        peak_bytes: Peak memory in bytes; None if it was not measured.
        skipped: Reason why the mode was skipped, or an empty string.
    """

    size: int
    tokens: int
    r: int
    mode: str
    state_bytes: int
    timing: Timing | None = None
    peak_bytes: int | None = None
    skipped: str = ""
