"""ViTDet detectors beyond the golden figures: streams, cascade, sizes, and what is kept of resized tables."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_vitdet import golden_frame, small_backbone, small_model
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn

import eventful
import policies
from envs.vitdet.boxes import clip, is_solid
from envs.vitdet.detector import vitdet_b_coco, vitdet_b_vid, vitdet_vid
from envs.vitdet.roi_heads import LIMIT, Cascade, detections
from eventful.attention.derived import Derived
from eventful.families.vitdet import vitdet


@pytest.fixture(scope="module")
def model() -> VisionTransformerSAM:
    """A small detector with weights that let it find something."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = small_model(proposals=20)
    for name, weight in model.named_parameters():
        if weight.dim() > 1 and name.startswith("head."):
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
        elif "rel_pos" in name or "pos_embed" in name:
            nn.init.normal_(weight, std=0.2)
    return model


def test_a_batch_is_its_streams(model: VisionTransformerSAM) -> None:
    frames = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        both = model(frames)
        apart = torch.cat([model(frame[None]) for frame in frames])
    assert both.shape == (2, LIMIT, 6) and all(len(found["boxes"]) for found in detections(both))
    torch.testing.assert_close(both, apart, atol=1e-3, rtol=1e-4)


def test_select_all_finds_what_the_dense_detector_finds(model: VisionTransformerSAM) -> None:
    wrapped = eventful.wrap(model, policies.All(), attention="paper")
    with torch.inference_mode():
        for frame in torch.randn(2, 1, 3, 160, 160):
            torch.testing.assert_close(wrapped(frame), model(frame), atol=1e-2, rtol=1e-4)
    assert float(wrapped.macs.by_operation["head"][0]) > 1e9


def test_frames_where_nothing_is_found(model: VisionTransformerSAM) -> None:
    blind = copy.deepcopy(model)
    with torch.no_grad():
        blind.head.roi_heads.box_predictor.cls_score.bias[-1] = 50.0
        outputs = blind(torch.randn(1, 3, 160, 160))
    assert not outputs.any()
    (found,) = detections(outputs)
    assert found["boxes"].shape == (0, 4) and found["labels"].dtype == torch.int64


def test_each_stage_of_a_cascade_moves_the_boxes_and_scores_are_averaged() -> None:
    torch.manual_seed(0)
    cascade = Cascade(classes=3)
    logits = torch.randn(3, 4)
    with torch.no_grad():
        for stage, predictor in enumerate(cascade.box_predictor):
            for weight in predictor.parameters():
                weight.zero_()
            # Deltas are divided by 10, 20 and 30: a tenth of the width in the first stage, a thirtieth in the last.
            predictor.bbox_pred.bias[0] = 1.0
            predictor.cls_score.bias.copy_(logits[stage])
        levels = [torch.randn(1, 256, side, side) for side in (20, 10, 5, 3)]
        boxes, scores = cascade.classify(levels, [torch.tensor([[10.0, 20, 40, 60], [50, 0, 80, 10]])], (80, 80))
    shift = 30 * (1 / 10 + 1 / 20 + 1 / 30)
    torch.testing.assert_close(boxes[0, 0], torch.tensor([10 + shift, 20, 40 + shift, 60]))
    torch.testing.assert_close(scores[1], logits.softmax(-1).mean(0)[:3])
    # The second box is cut at the edge before each further stage: 53 to 80, then 54.35 to 80, then moved past it.
    left = 53 + 27 / 20
    torch.testing.assert_close(
        boxes[1, 0], torch.tensor([left, 0, 80, 10]) + torch.tensor([1.0, 0, 1, 0]) * (80 - left) / 30
    )


def test_clipped_boxes_without_area_are_known() -> None:
    boxes = clip(torch.tensor([[-5.0, 2, 12, 30], [30, 3, 40, 9], [4, 5, 4, 9]]), (10, 20))
    assert boxes.tolist() == [[0, 2, 12, 10], [20, 3, 20, 9], [4, 5, 4, 9]]
    assert is_solid(boxes).tolist() == [True, False, False]


def test_weights_are_the_same_for_all_sizes_and_pooled_or_not() -> None:
    shapes = [
        {name: value.shape for name, value in vitdet_b_vid(size, kv_pool=pool, device="meta").state_dict().items()}
        for size, pool in ((1024, False), (672, False), (672, True))
    ]
    assert shapes[0] == shapes[1] == shapes[2]
    assert sum(shape.numel() for shape in shapes[0].values()) == pytest.approx(108.0e6, rel=1e-3)
    coco = vitdet_b_coco(device="meta").state_dict()
    assert coco["head.roi_heads.box_predictor.2.bbox_pred.weight"].shape == (4, 1024)


@pytest.mark.parametrize("kv_pool", [1, 2])
@pytest.mark.parametrize("resize", ["array", "table"])
def test_both_rules_for_relative_positions_are_eventful(resize: str, kv_pool: int) -> None:
    torch.manual_seed(0)
    outs = []
    model = vitdet(80, 24, 2, 2, 4, (1,), kv_pool, 16, position_side=3, relative_side=9, relative_resize=resize).eval()  # type: ignore[arg-type]
    for name, weight in model.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            nn.init.normal_(weight)
    frames = torch.randn(3, 2, 3, 80, 112)
    for mode in ("exact", "paper", "recompute"):
        wrapped = eventful.wrap(model, policies.All(), attention=mode)  # type: ignore[arg-type]
        with torch.inference_mode():
            for frame in frames:
                torch.testing.assert_close(wrapped(frame), model(frame), atol=1e-4, rtol=1e-4)
            outs.append(wrapped(frames[0]))
    other = copy.deepcopy(model)
    other.blocks[1].attn.relative_resize = "table" if resize == "array" else "array"
    with torch.inference_mode():
        assert (other(frames[0]) - outs[0]).abs().max() > 1e-3


def test_a_rule_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="'array' or 'table', got 'matrix'"):
        vitdet(80, 24, 2, 2, 4, (1,), relative_resize="matrix")  # type: ignore[arg-type]


def test_tables_follow_their_weights() -> None:
    model, frame = small_backbone(relative=32), torch.randn(1, 3, 320, 320)
    copied = copy.deepcopy(model)
    wrapped = eventful.wrap(model, policies.All())
    with torch.no_grad():
        before = model(frame)
        torch.testing.assert_close(wrapped(frame), before, atol=1e-5, rtol=1e-5)
        for name, weight in model.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                weight.add_(torch.randn_like(weight))
        after = model(frame)
        torch.testing.assert_close(wrapped(frame), after, atol=1e-4, rtol=1e-4)
        assert (after - before).abs().max() > 0.1
        torch.testing.assert_close(copied(frame), before)
        copied.load_state_dict(model.state_dict())
        torch.testing.assert_close(copied(frame), after)


def test_derived_values_are_computed_when_something_changed() -> None:
    source, made = torch.zeros(3), list[Tensor]()
    kept: Derived[Tensor] = Derived()

    def get(*about: int) -> Tensor:
        return kept.get([source], lambda: made.append(source + 1) or made[-1], *about)  # type: ignore[func-returns-value]

    assert get(1) is get(1) and len(made) == 1
    assert get(2) is made[1]
    source.add_(1)
    assert get(2).tolist() == [2, 2, 2] and len(made) == 3
    source = torch.ones(3)
    assert get(2) is made[3]
    source.requires_grad_()
    assert get(2).requires_grad and get(2) is not get(2)
    assert copy.deepcopy(kept)._value is None


def test_the_page_about_it_runs(model: VisionTransformerSAM, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "vitdet.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    monkeypatch.setattr("envs.vitdet.detector.vitdet_b_vid", lambda size, weights: model)
    namespace: dict[str, Any] = {"video": [golden_frame(t) for t in range(2)]}
    exec(code, namespace)
    assert namespace["boxes"].shape[1] == 4 and len(namespace["boxes"])
    assert namespace["boxes"].max() <= 320 and float(namespace["model"].macs.share[0]) < 1


def test_a_small_head_and_a_stack_of_convolutions_run_eventfully() -> None:
    torch.manual_seed(0)
    sizes = {"embed_dim": 24, "depth": 2, "heads": 2, "window": 2, "global_blocks": [1]}
    vit = vitdet_vid(64, 2, 10, architecture=sizes | {"channels": 16, "hidden": 32, "anchor": 2.5, "stem": "conv"})
    assert vit.head.roi_heads.box_head.fc1.weight.shape == (32, 16 * 7 * 7)
    with torch.inference_mode():
        predictions = vit.head.proposal_generator.predict(vit.head.pyramid(torch.zeros(1, 24, 4, 4)))
    assert predictions.anchors[0][1].tolist() == [-5, -5, 5, 5]
    wrapped = eventful.wrap(vit, policies.All())
    with torch.inference_mode():
        for frame in torch.randn(2, 1, 3, 64, 64):
            torch.testing.assert_close(wrapped(frame), vit(frame), atol=1e-3, rtol=1e-4)
    with pytest.raises(ValueError, match="has patches of 16 pixels, asked for 8"):
        vitdet(64, patch_size=8, stem="conv")
