"""ViTDet detectors: a timm vision transformer whose head finds objects, so that all of it can be made eventful.

Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (2022); the models that Eventful
Transformers (2023) were measured on. `vit(frame)` takes frames on their square canvas (`envs.vitdet.canvas`) and
returns detections; `vit.forward_features(frame)` returns the last map of the backbone.

    vit = vitdet_b_vid(672)
    model = eventful.wrap(vit, policies.TopR(256), attention="paper", product_dtype=torch.float16)
    found = detections(model(frame))

Shape suffixes: B streams, D channels of the backbone, K boxes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn

from envs.backbones import fill, read_weights
from envs.vitdet.boxes import ANCHOR
from envs.vitdet.proposals import ProposalGenerator
from envs.vitdet.pyramid import CHANNELS, SimplePyramid
from envs.vitdet.roi_heads import HIDDEN, Cascade, ROIHeads, SingleStage
from eventful.attention.relative import RelativeResize
from eventful.errors import UserError
from eventful.families.vitdet import vitdet, vitdet_b
from eventful.tasks import check_options

COCO_CLASSES = 80
VID_CLASSES = 30

PATCH = 16
"""Pixels along a side of the patches."""


class DetectionHead(nn.Module):
    """Everything after the backbone.

    Args:
        dim: D.
        proposals: Most proposals of a frame.
        roi_heads: What looks into the proposed boxes.
        channels: Channels of the feature pyramid; those that the RoI heads expect.
        anchor: Side of the square anchor of a level, in strides.
    """

    def __init__(
        self, dim: int, proposals: int, roi_heads: ROIHeads, channels: int = CHANNELS, anchor: float = ANCHOR
    ) -> None:
        super().__init__()
        self.pyramid = SimplePyramid(dim, channels)
        self.proposal_generator = ProposalGenerator(proposals, channels, anchor)
        self.roi_heads = roi_heads

    def forward(self, features_BDYX: Tensor) -> Tensor:
        """Detections (B, 100, 6): box (xyxy, pixels of the canvas), score and class; rows of zeros after the last.

        Boxes are clipped to the canvas, not to the frame that lies on it.
        """
        size = (features_BDYX.shape[-2] * PATCH, features_BDYX.shape[-1] * PATCH)
        levels = self.pyramid(features_BDYX)
        proposed = self.proposal_generator(levels, size)
        return self.roi_heads(levels, [boxes_K4 for boxes_K4, _ in proposed], size)


def with_head(backbone: VisionTransformerSAM, head: DetectionHead) -> VisionTransformerSAM:
    """The backbone with the head in place of a classifier, in evaluation mode."""
    backbone.head = head  # type: ignore[assignment]  # timm has a classifier here
    return backbone.eval()


def vid_head(
    dim: int = 768,
    classes: int = VID_CLASSES,
    proposals: int = 300,
    channels: int = CHANNELS,
    hidden: int = HIDDEN,
    anchor: float = ANCHOR,
) -> DetectionHead:
    """Faster R-CNN, by default for the 30 classes of ImageNet VID, with random weights.

    Args:
        dim: D.
        classes: Number of classes.
        proposals: Most proposals of a frame.
        channels: Channels of the feature pyramid and of what is pooled from it.
        hidden: Channels of what is said of a box.
        anchor: Side of the square anchor of a level, in strides, of which the finest level has 4 pixels.
    """
    return DetectionHead(dim, proposals, SingleStage(classes, channels, hidden), channels, anchor)


def coco_head(dim: int = 768) -> DetectionHead:
    """Cascade R-CNN for the 80 classes of COCO, with random weights; masks are left out."""
    return DetectionHead(dim, 1000, Cascade(COCO_CLASSES))


def vitdet_b_vid(
    image_size: int = 1024,
    kv_pool: bool = False,
    relative_resize: RelativeResize = "array",
    weights: Path | str | None = None,
    device: torch.device | str | None = None,
) -> VisionTransformerSAM:
    """ViTDet-B for ImageNet VID.

    Args:
        image_size: Side of the canvas; 1024 and 672 were published. The weights are the same for all sizes.
        kv_pool: Whether global blocks average keys and values over 2x2 tokens.
        relative_resize: What is stretched at other sizes than 1024; see `eventful.families.vitdet.vitdet`.
        weights: File that `python -m envs.convert` wrote; random weights if None.
        device: Where to make the weights; "meta" for shapes only.

    Raises:
        UserError: If the weights are of another model, or cannot be read.
        OSError: If their file is missing.
    """
    return _detector(vid_head, vitdet_b(image_size, kv_pool, device, relative_resize), weights)


def vitdet_vid(
    image_size: int,
    classes: int = VID_CLASSES,
    proposals: int = 300,
    weights: Path | str | None = None,
    architecture: Mapping[str, Any] | None = None,
) -> VisionTransformerSAM:
    """`vitdet_b_vid` with other classes, or of another size.

    Args:
        image_size: Side of the canvas.
        classes: Number of classes.
        proposals: Most proposals of a frame.
        weights: File of weights; random ones if None.
        architecture: Arguments of `eventful.families.vitdet.vitdet` that are not those of ViTDet-B, such as `depth`;
            `channels`, `hidden` and `anchor` of the head, as in `vid_head`.

    Raises:
        UserError: If there is no such argument, sizes do not fit together, or the weights are of another model.
        OSError: If the file of the weights is missing.
    """
    options = {"position_side": 14, "relative_side": 64, **(architecture or {})}
    sizes: dict[str, Any] = {name: options.pop(name) for name in ("channels", "hidden", "anchor") if name in options}
    check_options("architecture", vid_head, sizes)
    check_options("architecture", vitdet, options)
    for name in ("image_size", "patch_size", "device"):
        if name in options:
            raise UserError(f"architecture: {name} cannot be chosen; patches have {PATCH} pixels")
    dim, heads = options.get("embed_dim", 768), options.get("heads", 12)
    if image_size < PATCH or image_size % PATCH:
        raise UserError(f"the side of the canvas must be a multiple of {PATCH} pixels, got {image_size}")
    if dim % heads or dim % 4:
        raise UserError(f"architecture: embed_dim must be a multiple of heads ({heads}) and of 4, got {dim}")
    if min(classes, proposals) < 1:
        raise UserError(f"classes and proposals must be positive, got {classes} and {proposals}")
    if not all(1 <= size < math.inf for size in sizes.values()):
        raise UserError(f"architecture: channels, hidden and anchor must be finite and at least 1, got {sizes}")
    return _detector(
        partial(vid_head, classes=classes, proposals=proposals, **sizes), vitdet(image_size, **options), weights
    )


def vitdet_b_coco(
    image_size: int = 1024,
    kv_pool: bool = False,
    relative_resize: RelativeResize = "table",
    weights: Path | str | None = None,
    device: torch.device | str | None = None,
) -> VisionTransformerSAM:
    """ViTDet-B with a cascade, for COCO; see `vitdet_b_vid`. detectron2, which trained it, stretches the table."""
    return _detector(coco_head, vitdet_b(image_size, kv_pool, device, relative_resize), weights)


def _detector(
    make_head: Callable[[int], DetectionHead], backbone: VisionTransformerSAM, weights: Path | str | None
) -> VisionTransformerSAM:
    with next(backbone.parameters()).device:
        detector = with_head(backbone, make_head(backbone.embed_dim))
    if weights is not None:
        fill(detector, read_weights(weights), str(weights))
    return detector
