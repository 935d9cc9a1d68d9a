"""The published compute column against a real run: ViTDet-B, random weights, the authors' accounting.

The tests compare formulas with the authors' figures. Here the model itself runs at full size, and what its gates
selected and its ledger counted must give the same figures.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

import eventful
import policies
from envs.vitdet.paper_column import selected
from eventful.families.vitdet import vitdet_b
from eventful.macs import paper_column
from train.bench.case import Setting, synthetic

PUBLISHED = {
    (1024, 512): (467.44, 86.39),
    (672, 128): (174.50, 19.28),
    (672, 256): (174.50, 32.93),
    (672, 512): (174.50, 60.25),
}
"""Giga-MACs of flush and steady state by the authors' counters, for (pixels, r)."""


@dataclass(frozen=True)
class AccountingCheck:
    """Giga-MACs of one frame after the flush.

    Attributes:
        size: Side of the frames in pixels.
        r: Tokens that each gate selects.
        by_operation: Giga-MACs of each operation by the authors' accounting, from what the gates selected.
        ledger: Giga-MACs by the runtime's ledger, of the operations that both count.
        flush: Giga-MACs of the flush by the authors' accounting.
        published: Giga-MACs (flush, steady state) of the authors' counters, None where they are not known.
    """

    size: int
    r: int
    by_operation: dict[str, float]
    ledger: dict[str, float]
    flush: float
    published: tuple[float, float] | None

    @property
    def total(self) -> float:
        """Giga-MACs of the steady state."""
        return sum(self.by_operation.values())

    @property
    def agrees(self) -> bool:
        """Whether the ledger agrees with the accounting, and the accounting with the authors' counters."""
        same = all(abs(self.by_operation[name] / amount - 1) < 1e-6 for name, amount in self.ledger.items())
        if self.published is None:
            return same
        pairs = zip((self.flush, self.total), self.published, strict=True)
        return same and all(abs(ours / theirs - 1) < 0.005 for ours, theirs in pairs)


@torch.inference_mode()
def check_accounting(size: int, r: int, device: torch.device) -> AccountingCheck:
    """Runs a flush and one frame of ViTDet-B with the published updates, and counts the latter."""
    setting = Setting("vitdet_b", {}, size, r, torch.float32, device)
    vit = vitdet_b(size, device=device).eval()
    model = eventful.wrap(vit, policies.TopR(r), attention="paper", buffer_dtype=torch.bfloat16)
    state = None
    for frame in itertools.islice(synthetic(setting, noise=0.02, changed=0.05, seed=0), 2):
        _, state = model.step(frame, state)
    if state is None or state.macs is None:
        raise RuntimeError("the model has counted nothing")
    architecture = paper_column.vitdet_b(size)
    counts = paper_column.steady_macs(architecture, selected(state, architecture))
    macs = {name: float(amount[0]) / 1e9 for name, amount in state.macs.by_operation.items()}
    return AccountingCheck(
        size,
        r,
        {name: amount / 1e9 for name, amount in counts.items()},
        {
            "linear": macs["token_wise"],
            "matmul": macs["qk"] + macs["av"],
            "einsum": macs["bias"],
            "accumulator": macs["merge"],
        },
        sum(paper_column.flush_macs(architecture).values()) / 1e9,
        PUBLISHED.get((size, r)),
    )
