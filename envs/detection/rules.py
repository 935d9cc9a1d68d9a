"""The details in which implementations of average precision at IoU 0.5 differ.

They agree on the rest: detections of a class are taken by falling score, at most 100 of a class and frame; each takes
the free object with the highest IoU (no pixel is added to widths and heights); precision is made monotone and averaged
over the recalls 0, 0.01, ..., 1; the mean is taken over the classes that have objects, so that a class with detections
alone is left out. The area range "all" of these libraries ends at 1e10 square pixels, which no frame reaches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

IOU = 0.5
LIMIT = 100
"""Most detections of one class that count in a frame."""


@dataclass(frozen=True, eq=False)
class Rule:
    """How detections are matched, and where precision is read.

    Attributes:
        strict: Whether a hit needs an IoU above 0.5; if not, one of 0.5 is enough.
        last_of_equals: Which of several objects of the same IoU is taken: the last, or the first.
        recalls: The 101 recalls at which precision is read. The recalls that were reached are rounded to their data
            type: whether three of ten objects reach 0.3 is a matter of rounding.
    """

    strict: bool
    last_of_equals: bool
    recalls: NDArray[np.floating]

    def reaches(self, overlap: NDArray) -> NDArray[np.bool_]:
        """Whether IoUs are large enough for a hit."""
        return overlap > IOU if self.strict else overlap >= IOU


# Each grid is made by the function that the library makes it with: their roundings differ.
PUBLISHED = Rule(strict=True, last_of_equals=False, recalls=torch.linspace(0.0, 1.0, 101).numpy())
"""torchmetrics 0.11, with which the paper's detection results were computed."""

COCO = Rule(strict=False, last_of_equals=True, recalls=np.linspace(0.0, 1.0, 101))
"""pycocotools (Lin et al. 2014)."""

TORCHMETRICS = Rule(strict=False, last_of_equals=True, recalls=torch.linspace(0.0, 1.0, 101).double().numpy())
"""torchmetrics from 1.0 on: pycocotools with recalls rounded to single precision."""
