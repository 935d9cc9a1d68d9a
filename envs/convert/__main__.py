"""`python -m envs.convert FILE --to OUT.safetensors`: a published checkpoint as a weights file of this package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from envs.convert.arrays import read_arrays
from envs.convert.names import Layout, convert
from envs.convert.vitdet import LAYOUTS as VITDET
from envs.convert.vivit import LAYOUTS as VIVIT
from eventful.cli import run
from eventful.console.options import Parser
from eventful.disk.replaced import replace_file
from eventful.errors import UserError

COMMAND = "python -m envs.convert"

LAYOUTS: tuple[Layout, ...] = (*VITDET, *VIVIT)
"""All checkpoints that are known."""


def convert_file(path: Path, out: Path, layouts: Sequence[Layout] = LAYOUTS) -> str:
    """Converts a checkpoint; returns what was recognised, in a few lines.

    Raises:
        UserError: If the checkpoint is none of those that are known, or not quite, or `out` is no .safetensors file.
        OSError: If a file cannot be read or written.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"--to {out}: the result is a .safetensors file, and must be called so")
    arrays = read_arrays(path)
    converted = convert(arrays, layouts, f"checkpoint {path}")
    facts = {"layout": converted.layout.name}
    replace_file(out, lambda partial: save_file(converted.state, partial, facts))
    values = sum(value.numel() for value in converted.state.values())
    lines = [
        f"{path}: {converted.layout.name}",
        f"{len(converted.state)} of {len(arrays)} arrays, {values / 1e6:.1f} million values, written to {out}",
    ]
    if converted.dropped:
        lines.append(f"known and left out, as nothing here uses it: {', '.join(sorted(converted.dropped))}")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """The command; see the module."""
    known = "\n".join(f"  {layout.name}" for layout in LAYOUTS)
    about = f"Converts a published checkpoint (.pth, .pyth, .pkl, .safetensors). Known are:\n{known}"
    parser = Parser(COMMAND, about, [f"{COMMAND} vivit_fac_enc_b16x2.pyth --to vivit.safetensors"])
    parser.add_argument("file", type=Path, help="the checkpoint")
    parser.add_argument("--to", type=Path, required=True, metavar="OUT.safetensors", help="file to write")
    options = parser.parse_args(argv)
    print(convert_file(options.file, options.to))


if __name__ == "__main__":
    run(COMMAND, main)
