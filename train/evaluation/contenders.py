"""Which policies an evaluation compares, and how each of them is set to a budget.

    Learned              the checkpoint, deployed by threshold
    LearnedTop           the checkpoint, deployed by its r highest scores
    SaliencyThreshold    error weighed by what the consumer looked at, one threshold per gate and budget
    SaliencyTopR         the r tokens in which that is largest
    SaliencyOrSurprise   what the consumer looked at, or what has changed, or what is old: the rule of WAM-Cache
    CalibratedThreshold  one threshold per gate, calibrated on the training split
    KeySimilarity        the least similar by cosine: the rule of STC
    GlobalTopR           one count for all gates of a frame, by normalised errors
    TopR, Threshold      the paper's rules: one r, one h for all gates
    Random, Periodic     blind to the content
    Oracle               no rule, but a yardstick: the r updates that are worth most, by the dense model's outputs
    PricedOracle         the same, but every update that is worth more than a price: r in the mean over frames
    All, Nothing         the dense model and the frozen one: where every frontier ends
    MODULE:FUNCTION      policies of your own (`train.evaluation.user_policies`)

`NAME+age` is a rule with a bound on age (`policies.AgeBound`). A name may say how the model is run: `TopR@gate` decides
at every gate, `TopR@frame` once per frame. How rules are set to budgets is `train.evaluation.rules`' to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import nn

from eventful.errors import UserError
from eventful.tasks import nearest
from eventful.user_code import is_user_code, load_user_code
from policies.protocol import Granularity

LABELS = {
    "Learned": "learned",
    "LearnedTop": "learned, top-r",
    "SaliencyThreshold": "saliency threshold",
    "SaliencyTopR": "saliency top-r",
    "SaliencyOrSurprise": "saliency or surprise",
    "CalibratedThreshold": "calibrated threshold",
    "KeySimilarity": "key similarity",
    "GlobalTopR": "global top-r",
    "TopR": "top-r",
    "Threshold": "threshold",
    "Random": "random",
    "Periodic": "periodic",
    "Oracle": "oracle",
    "PricedOracle": "oracle by price",
    "All": "all (dense)",
    "Nothing": "nothing",
}
"""Names of contenders, and what tables and plots call them."""

SAME_WITH_ONE_GATE = {"GlobalTopR": "TopR", "Threshold": "CalibratedThreshold"}
"""Rules that are the same rule when there is one decision per frame."""

CAN_AGE = (
    "SaliencyThreshold",
    "SaliencyTopR",
    "CalibratedThreshold",
    "KeySimilarity",
    "GlobalTopR",
    "TopR",
    "Threshold",
    "Random",
)
"""Rules that can have a bound on age. `SaliencyOrSurprise` and `Periodic` have one anyway, a checkpoint its own."""

ORACLES = ("Oracle", "PricedOracle")
"""Yardsticks."""

AGED = ["SaliencyThreshold+age", "CalibratedThreshold+age", "Random+age"]
DEFAULT = [*(name for name in LABELS if name not in ORACLES), *AGED]
"""Who is compared if nothing else is said."""

AGE = "+age"


@dataclass(frozen=True)
class Contender:
    """A kind of policy, run at a granularity.

    Attributes:
        name: One of `LABELS`, or `MODULE:FUNCTION`.
        granularity: How the model is run.
        visitor: Whether the granularity is not the evaluation's own; then the label says it.
        aged: Whether it has a bound on age.
    """

    name: str
    granularity: Granularity
    visitor: bool = False
    aged: bool = False

    @property
    def id(self) -> str:
        """As written in the config."""
        return self.name + (AGE if self.aged else "") + (f"@{self.granularity}" if self.visitor else "")

    @property
    def label(self) -> str:
        """For tables and plots."""
        where = {"gate": ", per gate", "frame": ", per frame"}[self.granularity] if self.visitor else ""
        return LABELS.get(self.name, self.name) + (", age bound" if self.aged else "") + where

    @property
    def learned(self) -> bool:
        """Whether it comes from a checkpoint."""
        return self.name in ("Learned", "LearnedTop")

    @property
    def rule(self) -> bool:
        """Whether it is hand-made: an opponent."""
        return not (self.learned or self.end or self.oracle)

    @property
    def oracle(self) -> bool:
        """Whether it is told what the dense model makes of each frame, which nobody can deploy."""
        return self.name in ORACLES

    @property
    def looks(self) -> bool:
        """Whether it looks at what the consumer cared for. What a user's own code looks at is not known: it may."""
        return self.name.startswith("Saliency") or is_user_code(self.name)

    @property
    def end(self) -> bool:
        """Whether it has no budget: the dense model and the frozen one."""
        return self.name in ("All", "Nothing")


def parse_contenders(names: Sequence[str], own: Granularity) -> list[Contender]:
    """Contenders from names such as `TopR`, `TopR@gate` or `TopR+age@gate`.

    Raises:
        UserError: If there is no such policy or granularity, one cannot have a bound on age, or is named twice.
    """
    found: list[Contender] = []
    for text in names:
        stem, at, where = text.partition("@")
        name, aged = stem.removesuffix(AGE), stem.endswith(AGE)
        if is_user_code(name):
            load_user_code(name, "policies")
        elif name not in LABELS:
            raise UserError(f"policies: there is no {name!r}{nearest(name, LABELS)} (known: {', '.join(LABELS)})")
        if at and where not in get_args(Granularity):
            raise UserError(f"policies: {text!r} must end in @gate or @frame")
        if aged and name not in CAN_AGE:
            raise UserError(f"policies: {text!r}: a bound on age can be had for {', '.join(CAN_AGE)}")
        granularity: Granularity = "gate" if (where or own) == "gate" else "frame"
        contender = Contender(name, granularity, visitor=granularity != own, aged=aged)
        if contender.learned and contender.visitor:
            raise UserError(f"policies: {text!r}: the checkpoint was trained for granularity {own!r}")
        if contender in found:
            raise UserError(f"policies: {text!r} is there twice")
        found.append(contender)
    return found


def drop_twins(contenders: Sequence[Contender]) -> tuple[list[Contender], list[str]]:
    """Leaves out rules that are the same as another one that is there; also returns a note on each."""
    kept, notes = [], []
    for contender in contenders:
        twin = SAME_WITH_ONE_GATE.get(contender.name)
        alike = [c for c in contenders if c.name == twin and c.aged == contender.aged]
        same = [c for c in alike if c.granularity == contender.granularity == "frame"]
        if same:
            notes.append(f"with one decision per frame, {contender.label} is {same[0].label}, and is listed once")
        else:
            kept.append(contender)
    return kept, notes


def drop_blind(contenders: Sequence[Contender], saliency: bool) -> tuple[list[Contender], list[str]]:
    """Leaves out rules that need a saliency where the task has none; also returns a note on them.

    Args:
        contenders: All that are asked for.
        saliency: Whether the task says what the consumer of its outputs cares for.
    """
    needy = [c for c in contenders if c.name.startswith("Saliency") and not saliency]
    if not needy:
        return list(contenders), []
    names = ", ".join(c.label for c in needy)
    return [c for c in contenders if c not in needy], [
        f"the task offers no saliency, without which there is no {names}"
    ]


def digest(module: nn.Module, *options: object) -> str:
    """Eight hex digits that change with a module's weights and with the options."""
    found = hashlib.sha256(repr(options).encode())
    for name, tensor in module.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:8]
