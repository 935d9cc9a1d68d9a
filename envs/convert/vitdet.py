"""Names of the published ViTDet-B checkpoints: of Eventful Transformers' code, and of detectron2.

The converted file of the former, and the two that it was made from or goes back to: the VID detector as detectron2
trained it, and the COCO detector, a cascade whose mask head is not used here.

Shape suffixes: N entries of a table, Y rows, X columns, D channels.
"""

from __future__ import annotations

import math

import torch
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor

from envs.convert.names import Layout, Rule
from envs.vitdet.detector import vitdet_b_coco, vitdet_b_vid

POSITIONS = "patch_embed.pos_embed"

_HEAD: list[Rule] = [(r"(pyramid|proposal_generator|roi_heads)\.", r"head.\1.")]

_AUTHORS: list[Rule] = [
    (r"embedding\.conv\.", "patch_embed.proj."),
    (r"backbone\.position_encoding\.encoding$", POSITIONS),
    (r"backbone\.blocks\.(\d+)\.input_layer_norm\.", r"blocks.\1.norm1."),
    (r"backbone\.blocks\.(\d+)\.qkv\.", r"blocks.\1.attn.qkv."),
    (r"backbone\.blocks\.(\d+)\.relative_position\.y_embedding$", r"blocks.\1.attn.rel_pos_h"),
    (r"backbone\.blocks\.(\d+)\.relative_position\.x_embedding$", r"blocks.\1.attn.rel_pos_w"),
    (r"backbone\.blocks\.(\d+)\.projection\.", r"blocks.\1.attn.proj."),
    (r"backbone\.blocks\.(\d+)\.mlp_layer_norm\.", r"blocks.\1.norm2."),
    (r"backbone\.blocks\.(\d+)\.mlp_([12])\.", r"blocks.\1.mlp.fc\2."),
    *_HEAD,
]


def _laterals(level: int, stage: int, first: int) -> list[Rule]:
    """The two convolutions of a level and their norms, which detectron2 has within the convolutions.

    Args:
        level: Level, 2 to 5.
        stage: Index of its stage.
        first: Index of the first of the two convolutions within the stage; the norms come between them here.
    """
    rules: list[Rule] = []
    for i in range(2):
        raw, own = rf"backbone\.simfp_{level}\.{first + i}\.", f"head.pyramid.stages.{stage}.{first + 2 * i}."
        rules += [(raw + r"norm\.", f"head.pyramid.stages.{stage}.{first + 2 * i + 1}."), (raw, own)]
    return rules


_DETECTRON2: list[Rule] = [
    (r"backbone\.net\.pos_embed$", POSITIONS),
    (r"backbone\.net\.", ""),
    *_laterals(2, 0, first=4),
    (r"backbone\.simfp_2\.([013])\.", r"head.pyramid.stages.0.\1."),
    *_laterals(3, 1, first=1),
    (r"backbone\.simfp_3\.0\.", "head.pyramid.stages.1.0."),
    *_laterals(4, 2, first=0),
    *_laterals(5, 3, first=1),
    *_HEAD,
]


def _on_grid(table_1ND: Tensor) -> Tensor:
    """A table (1, N, D) of positions as (1, Y, X, D); as it is if N is no square."""
    side = math.isqrt(table_1ND.shape[1]) if table_1ND.dim() == 3 else 0
    return table_1ND.unflatten(1, (side, side)) if side and side * side == table_1ND.shape[1] else table_1ND


def _without_class(table_1ND: Tensor) -> Tensor:
    """The same, of a table whose first entry is that of a class token."""
    grid = _on_grid(table_1ND[:, 1:])
    return grid if grid.dim() == 4 else table_1ND


def _vid(device: torch.device) -> VisionTransformerSAM:
    return vitdet_b_vid(device=device)


def _coco(device: torch.device) -> VisionTransformerSAM:
    return vitdet_b_coco(device=device)


AUTHORS = Layout(
    "ViTDet-B for ImageNet VID, by the names of Eventful Transformers", _vid, _AUTHORS, {POSITIONS: _on_grid}
)
DETECTRON2_VID = Layout(
    "ViTDet-B for ImageNet VID, by the names of detectron2", _vid, _DETECTRON2, {POSITIONS: _without_class}
)
DETECTRON2_COCO = Layout(
    "ViTDet-B with a cascade for COCO, by the names of detectron2",
    _coco,
    _DETECTRON2,
    {POSITIONS: _without_class},
    dropped=(r"roi_heads\.mask_head\.",),
)

LAYOUTS = (AUTHORS, DETECTRON2_VID, DETECTRON2_COCO)
