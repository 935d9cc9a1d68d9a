"""The region proposal network: where there may be an object, whatever it is.

Ren et al., "Faster R-CNN" (2015), section 3.1, on the five levels of a feature pyramid.

Shape suffixes: B streams, C channels, A anchors of a place, P places and anchors of all levels; a trailing 4 is a box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from envs.vitdet.boxes import ANCHOR, ASPECT_RATIOS, anchors, clip, decode, is_solid
from envs.vitdet.pyramid import CHANNELS

Proposals = tuple[Tensor, Tensor]
"""xyxy boxes (K, 4) in pixels of the canvas and their logits (K,), best first."""

_PER_LEVEL = 1000
_MAX_OVERLAP = 0.7


@dataclass(frozen=True)
class Predictions:
    """What the network says at the anchors of each level, finest first; within a level by row, column, anchor.

    Attributes:
        logits: (B, P) of each level, float32.
        deltas: (B, P, 4) of each level, float32.
        anchors: (P, 4) of each level, xyxy in pixels of the canvas.
        sizes: (rows, columns) of each level.
    """

    logits: Sequence[Tensor]
    deltas: Sequence[Tensor]
    anchors: Sequence[Tensor]
    sizes: Sequence[tuple[int, int]]


class RPNHead(nn.Module):
    """Two convolutions, then a logit and four deltas for each anchor.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        kinds = {f"conv{i}": nn.Conv2d(channels, channels, 3, padding=1) for i in range(2)}
        self.conv = nn.ModuleDict(kinds)
        self.objectness_logits = nn.Conv2d(channels, len(ASPECT_RATIOS), 1)
        self.anchor_deltas = nn.Conv2d(channels, 4 * len(ASPECT_RATIOS), 1)

    def forward(self, x_BCYX: Tensor) -> tuple[Tensor, Tensor]:
        """A level to logits (B, A, Y, X) and deltas (B, 4 * A, Y, X), anchor by anchor."""
        for conv in self.conv.values():
            x_BCYX = F.relu(conv(x_BCYX))
        return self.objectness_logits(x_BCYX), self.anchor_deltas(x_BCYX)


class ProposalGenerator(nn.Module):
    """Proposals from a feature pyramid.

    Args:
        limit: Most proposals of a frame.
        channels: C.
        anchor: Side of the square anchor of a level, in strides.
    """

    def __init__(self, limit: int, channels: int = CHANNELS, anchor: float = ANCHOR) -> None:
        super().__init__()
        self.rpn_head = RPNHead(channels)
        self.limit, self.anchor = limit, anchor

    def forward(self, levels: Sequence[Tensor], size: tuple[int, int]) -> list[Proposals]:
        """Proposals of each stream.

        Args:
            levels: Maps (B, C, Y, X), finest first.
            size: (height, width) of the canvas, which boxes are clipped to.
        """
        return self.select(self.predict(levels), size)

    def predict(self, levels: Sequence[Tensor]) -> Predictions:
        """What the network says about maps (B, C, Y, X), finest first."""
        predictions = [self.rpn_head(x_BCYX) for x_BCYX in levels]
        sizes = [(x.shape[-2], x.shape[-1]) for x in levels]
        return Predictions(
            [logits_BAYX.permute(0, 2, 3, 1).flatten(1).float() for logits_BAYX, _ in predictions],
            [x.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3).float() for _, x in predictions],
            anchors(sizes, levels[0].device, self.anchor),
            sizes,
        )

    def select(self, predictions: Predictions, size: tuple[int, int]) -> list[Proposals]:
        """The best proposals of each stream; see `forward`."""
        logits, deltas, places = predictions.logits, predictions.deltas, predictions.anchors
        streams = range(len(logits[0]))
        return [self._select([x[b] for x in logits], [x[b] for x in deltas], places, size) for b in streams]

    def _select(
        self, logits: Sequence[Tensor], deltas: Sequence[Tensor], places: Sequence[Tensor], size: tuple[int, int]
    ) -> Proposals:
        """The best of one stream: of each level by logit, then of all by logit after suppression within levels."""
        boxes, scores, level = [], [], []
        for i, (logits_P, deltas_P4, places_P4) in enumerate(zip(logits, deltas, places, strict=True)):
            best, index = logits_P.topk(min(_PER_LEVEL, len(logits_P)))
            boxes.append(decode(deltas_P4[index], places_P4[index], (1.0, 1.0, 1.0, 1.0)))
            scores.append(best)
            level.append(torch.full_like(index, i))
        boxes_P4, scores_P, level_P = clip(torch.cat(boxes), size), torch.cat(scores), torch.cat(level)
        solid_P = is_solid(boxes_P4)
        boxes_P4, scores_P, level_P = boxes_P4[solid_P], scores_P[solid_P], level_P[solid_P]
        kept = batched_nms(boxes_P4, scores_P, level_P, _MAX_OVERLAP)[: self.limit]
        return boxes_P4[kept], scores_P[kept]
