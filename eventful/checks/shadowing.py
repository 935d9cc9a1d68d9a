"""Modules of a user's own that have the name of a package of this distribution.

Its top-level packages are `policies`, `eventful`, `envs` and `train`, common words all but one. What comes first on the
path is imported; without a word about it, the error would be that `policies` is not a package.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

DISTRIBUTION = "eventful-policies"
HOME = Path(__file__).resolve().parents[2]
"""Where the packages of this distribution lie side by side."""


def refuse_shadows(*names: str) -> None:
    """Makes sure that packages of this distribution are what their names import.

    Args:
        *names: Names of top-level packages.

    Raises:
        ImportError: Naming the module that is imported instead.
    """
    for name in names:
        loaded = sys.modules.get(name)
        spec = find_spec(name) if loaded is None else loaded.__spec__
        if spec is None or spec.origin is None:
            continue
        found = Path(spec.origin).resolve()
        if found.parent != HOME / name:
            raise ImportError(
                f"{found} is imported in place of the package {name!r} of {DISTRIBUTION} ({HOME / name}): rename it, "
                "or take its folder off the Python path"
            )
