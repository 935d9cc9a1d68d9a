"""The rows of a table: a way to run the detector, and a rule that selects tokens."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from eventful.errors import UserError
from eventful.infer.arguments import heuristic
from eventful.options import AttentionMode, Reference
from policies import Policy


@dataclass(frozen=True)
class Variant:
    """A way to run the detector.

    Attributes:
        attention: Attention update; None for the dense model.
        reference: What errors are measured against.
        pooled: Whether global blocks average keys and values over 2x2 tokens.
    """

    attention: AttentionMode | None = None
    reference: Reference = "updated"
    pooled: bool = False


VARIANTS = {
    "dense": Variant(),
    "eventful": Variant("paper"),
    "token-wise": Variant("recompute"),
    "stgt": Variant("recompute", "previous"),
    "pooled-dense": Variant(pooled=True),
    "pooled": Variant("paper", pooled=True),
}
"""By name: all of the method; its token-wise layers alone; STGT, which forgets small changes; pooled keys, values."""


@dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
        name: As it is given, such as `eventful:top-r:512`.
        variant: The way to run.
        policy: Name and value of the rule; empty for dense rows.
    """

    name: str
    variant: Variant
    policy: str

    def make_policy(self) -> Policy:
        """The rule, afresh."""
        return heuristic(self.policy)


def parse_row(name: str) -> Row:
    """A row from `VARIANT` (dense ones) or `VARIANT:RULE`, with rules as `eventful-infer --heuristic` takes them.

    Raises:
        UserError: If there is no such row.
    """
    kind, _, policy = name.partition(":")
    if kind not in VARIANTS:
        raise UserError(f"rows: {name!r} is no row; they begin with one of {', '.join(VARIANTS)}")
    variant = VARIANTS[kind]
    if variant.attention is None:
        if policy:
            raise UserError(f"rows: {name!r}: the dense model asks no rule; write {kind}")
        return Row(name, variant, "")
    try:
        heuristic(policy)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"rows: {name!r} is not of the form {kind}:RULE: {error}") from error
    return Row(name, variant, policy)
