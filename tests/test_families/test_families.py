"""Which models are supported, what is refused, and the table of both in the documentation."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from family_zoo import ZOO, build, clip, eva, vit
from timm.layers import DiffAttention
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import ParallelScalingBlock, ParallelThingsBlock, VisionTransformer
from torch import Tensor, nn
from tower_table import tower_lines

import eventful
import policies
from eventful.families import adapt
from eventful.families.vitdet import vitdet, vitdet_b
from eventful.macs.counter import count_macs

DOCS = Path(__file__).parents[2] / "docs" / "models.md"

NOTES = {
    "ViT": "`vit_*`; also AugReg, MAE, FlexiViT, `vit_*_dinov2`, `vit_so400m_*`",
    "DeiT, distilled": "`deit_*_distilled_*`: two prefix tokens, the mean of two heads",
    "DeiT III": "`deit3_*`: layer scale, no position for the class token",
    "DINOv2 with registers": "`vit_*_reg4_dinov2.*`: register tokens; any size with `dynamic_img_size=True`",
    "CLIP image tower": "`vit_*_clip_*`: norm before the blocks; also quick-GELU",
    "SigLIP image tower": "`vit_*_siglip_*`: attention pooling head, no class token",
    "ViT, qk-norm, no position table": '`qk_norm=True`, `scale_attn_norm=True`, `pos_embed="none"`',
    "ViT, residual post-norm": "`block_fn=ResPostBlock`",
    "EVA, post-norm": "`eva02_enormous_*`",
    "EVA-02": "`eva02_*`: separate q, k, v, SwiGLU with inner norm, axial RoPE",
    "EVA-02, fused, inner norm": "`eva02_tiny_*`, `eva02_small_*` layout; norm after attention",
    "DINOv3": "`vit_*_dinov3.*`: RoPE in halves, registers, any size",
    "ViT, mixed RoPE": "`vit_*_rope_mixed_*`: learned RoPE, another one in each block",
    "Perception Encoder": "`vit_pe_*`: RoPE, attention pooling",
    "Sapiens2 (grouped queries)": "`vit_*sapiens2*`: heads share keys and values",
    "NaFlexVit": "`naflexvit_*` without RoPE, on frames: any size",
    "SAM image encoder": "`samvit_*`: windows with padding, decomposed relative positions, neck",
    "SAM layout with RoPE": "`VisionTransformerSAM(use_rope=True)`",
    "ViTDet": "`eventful.families.vitdet.vitdet_b()`",
    "ViTDet, pooled keys": "`eventful.families.vitdet.vitdet_b(kv_pool=True)`: 2x2 average of keys and values",
}


class Wandering(VisionTransformer):
    """A subclass whose features are not timm's."""

    def forward_features(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return super().forward_features(x.flip(-1), *args, **kwargs)


def gated_vit() -> nn.Module:
    model = vit()
    model.blocks[1].attn.gate = nn.Linear(32, 32)
    return model


REFUSED: dict[str, tuple[Any, str]] = {
    "Swin": (partial(SwinTransformer, img_size=32, embed_dim=12, depths=(1,), num_heads=(2,)), "SwinTransformer"),
    "a convolutional network": (partial(timm.create_model, "resnet18"), "ResNet"),
    "patch dropout": (partial(vit, patch_drop_rate=0.5), "patch_drop"),
    "patch dropout (Eva)": (partial(eva, patch_drop_rate=0.5), "patch_drop"),
    "parallel attention and MLP": (partial(vit, block_fn=ParallelScalingBlock), "blocks.0: ParallelScalingBlock"),
    "parallel branches": (partial(vit, block_fn=ParallelThingsBlock), "blocks.0: ParallelThingsBlock"),
    "differential attention": (partial(vit, attn_layer=DiffAttention), "blocks.0.attn: DiffAttention"),
    "gated attention outputs": (gated_vit, "blocks.1.attn.gate"),
    "a NaFlexVit with RoPE": (
        partial(NaFlexVit, NaFlexVitCfg(patch_size=8, embed_dim=32, depth=1, num_heads=2, rope_type="axial")), "rope",
    ),
    "subclasses with their own features": (
        partial(Wandering, img_size=16, patch_size=8, embed_dim=32, depth=1, num_heads=2), "Wandering.forward_features",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_supported_is_named(what: str) -> None:
    make, part = REFUSED[what]
    with pytest.raises(eventful.UnsupportedModel, match=part):
        eventful.wrap(make(), policies.All())


def test_a_module_that_is_no_vision_transformer_is_named_with_its_package() -> None:
    with pytest.raises(eventful.UnsupportedModel, match=r"torch\.nn\..*Linear is none of .*timm Eva"):
        eventful.wrap(nn.Linear(2, 2), policies.All())


PUBLISHED = [
    "deit_tiny_distilled_patch16_224",
    "vit_base_patch16_siglip_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch16_clip_quickgelu_224",
    "deit3_small_patch16_224",
    "eva02_tiny_patch14_224",
    "vit_small_patch16_dinov3",
    "vit_small_patch16_rope_mixed_224",
    "vit_pe_core_tiny_patch16_384",
    "samvit_base_patch16",
    "vit_base_patch16_rope_reg1_gap_256",
    "vit_srelpos_small_patch16_224",
    "beit_base_patch16_224",
    "vit_relpos_base_patch16_clsgap_224",
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_are_taken_or_refused_by_name(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    if any(part in name for part in ("relpos", "beit")):
        with pytest.raises(eventful.UnsupportedModel, match=type(model).__name__):
            adapt(model)
    else:
        backbone = adapt(model)
        size = model.pretrained_cfg["input_size"][1:]
        assert len(backbone.blocks(backbone.grid(size))) == len(model.blocks)


REFUSED_PARTS = ("ParallelThingsBlock", "ParallelScalingBlock", "DiffParallelScalingBlock", "DiffAttention")


@pytest.mark.slow
def test_all_of_timms_models_of_these_families_are_taken_but_for_named_parts() -> None:
    modules = ("vision_transformer", "vision_transformer_hybrid", "deit", "eva", "vision_transformer_sam")
    names = [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.split(".")[-1] in modules]
    taken = 0
    for name in names:
        with torch.device("meta"):
            model = timm.create_model(name)
        try:
            backbone = adapt(model)
        except eventful.UnsupportedModel as refusal:
            assert any(part in str(refusal) for part in REFUSED_PARTS), f"{name}: {refusal}"
            continue
        backbone.blocks(backbone.grid(model.pretrained_cfg["input_size"][1:]))
        taken += 1
    assert taken > 0.95 * len(names)


def test_a_frame_that_the_model_cannot_take_is_explained() -> None:
    fixed = eventful.wrap(build("ViT"), policies.All())
    with pytest.raises(eventful.StreamError, match="takes frames of 40x48, this one is 48x48"):
        fixed(torch.zeros(1, 3, 48, 48))
    dynamic = eventful.wrap(build("DINOv3"), policies.All())
    with pytest.raises(eventful.StreamError, match="multiples of the patch size 8x8, got 44x48"):
        dynamic(torch.zeros(1, 3, 44, 48))


def test_weights_are_shared_and_the_state_dict_is_the_models() -> None:
    vit_ = build("EVA-02")
    model = eventful.wrap(vit_, policies.TopR(4))
    with torch.inference_mode():
        model(clip(1)[0])
    assert {name.removeprefix("vit.") for name in model.state_dict()} == set(vit_.state_dict())
    with torch.no_grad():
        vit_.blocks[0].mlp.fc2.weight.zero_()
    frame = clip(1)[0]
    model.reset()
    with torch.inference_mode():
        torch.testing.assert_close(model(frame), vit_(frame), atol=1e-4, rtol=0)


def test_dropout_is_never_applied() -> None:
    model, frame = eventful.wrap(vit(drop_rate=0.5, proj_drop_rate=0.5, pos_drop_rate=0.5), policies.All()), clip(1)[0]
    model.train()
    with torch.inference_mode():
        first = model(frame)
        assert torch.equal(model(frame), first)
        torch.testing.assert_close(first, model.vit(frame), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["ViT, mixed RoPE", "SAM image encoder", "EVA-02"])
def test_trained_position_tables_are_followed(name: str) -> None:
    """Tables derived from weights are made anew when the weights change, between any two frames."""
    vit_, frame = build(name), clip(1)[0]
    model = eventful.wrap(vit_, policies.All())
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(model(frame), vit_(frame), atol=1e-4, rtol=0)
            for weight_name, weight in vit_.named_parameters():
                if "rope" in weight_name or "rel_pos" in weight_name or "pos_embed" in weight_name:
                    weight.mul_(0.5)


@pytest.mark.parametrize("name", ["ViT, mixed RoPE", "SAM image encoder", "ViTDet, pooled keys"])
def test_gradients_reach_position_tables_and_masks(name: str) -> None:
    model, frames = eventful.wrap(build(name), policies.All()), clip(2)
    _, state = model.step_features(frames[0], None, masked=True)
    model.policy = Relaxed()
    features, state = model.step_features(frames[1], state, masked=True)
    assert state.macs is not None
    (features.square().mean() + state.macs.ratio.sum()).backward()
    assert model.policy.mask_BN.grad is not None and bool((model.policy.mask_BN.grad != 0).all())
    for weight_name, weight in model.vit.named_parameters():
        if "rope" in weight_name or "rel_pos" in weight_name:
            assert weight.grad is not None and bool(weight.grad.abs().sum() > 0), weight_name


class Relaxed(policies.Policy):
    """One half of every token."""

    mask_BN: Tensor

    def select(self, observation: policies.GateObservation) -> policies.Selection:
        if observation.gate == 0:
            self.mask_BN = torch.full(observation.input_BND.shape[:2], 0.5, requires_grad=True)
        return policies.Selection(mask_BN=self.mask_BN)


def test_vitdet_b_has_the_published_size() -> None:
    model = vitdet_b(device="meta")
    assert sum(weight.numel() for weight in model.blocks.parameters()) == pytest.approx(85.1e6, rel=0.001)
    assert [block.window_size for block in model.blocks] == [14, 14, 0] * 4
    frame = torch.empty(1, 3, 1024, 1024, device="meta")
    plan = eventful.frame_plan.make_plan(adapt(model), eventful.frame_plan.Options(), frame)
    assert plan.dense == pytest.approx(465.2e9, rel=0.001)


def test_vitdet_interpolates_its_tables_to_other_sizes() -> None:
    torch.manual_seed(0)
    for pool in (1, 2):
        model = vitdet(48, 32, 2, 2, 4, (1,), kv_pool=pool, patch_size=8).eval()
        for name, weight in model.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                nn.init.normal_(weight)
        eventful_model = eventful.wrap(model, policies.All(), on_resize="flush")
        with torch.inference_mode():
            for size in ((48, 48), (40, 56), (24, 80)):
                frame = torch.randn(2, 3, *size)
                torch.testing.assert_close(eventful_model(frame), model(frame), atol=1e-4, rtol=1e-4)


def table() -> str:
    """The page, made from what wraps and what does not."""
    lines = [
        "# Models",
        "",
        "Made by `tests/test_families/test_families.py`: each kind of model wrapped, and held against timm's output.",
        "After a change: `UPDATE_DOCS=1 pytest tests/test_families/test_families.py -k documented`.",
        "",
        "| Kind | Family | timm models and options | gate: exact / paper / recompute | frame |",
        "|---|---|---|---|---|",
    ]
    frame = clip(1)[0]
    for name in ZOO:
        model = build(name)
        works = []
        for options in ({}, {"attention": "paper"}, {"attention": "recompute"}, {"granularity": "frame"}):
            wrapped = eventful.wrap(model, policies.All(), **options)  # type: ignore[arg-type]
            with torch.inference_mode():
                works.append("yes" if torch.allclose(wrapped(frame), model(frame), atol=1e-4, rtol=1e-4) else "no")
        family = adapt(model).title
        lines.append(f"| {name} | {family} | {NOTES[name]} | {' / '.join(works[:3])} | {works[3]} |")
    lines += ["", "Not supported; `wrap` raises `UnsupportedModel`:", "", "| What | Message |", "|---|---|"]
    for what, (make, _) in REFUSED.items():
        with pytest.raises(eventful.UnsupportedModel) as caught:
            adapt(make())
        lines.append(f"| {what} | {caught.value} |")
    return "\n".join([*lines, *tower_lines()]) + "\n"


def test_supported_models_are_documented() -> None:
    page = table()
    assert "| no |" not in page and "no /" not in page and "/ no" not in page
    if os.environ.get("UPDATE_DOCS"):
        DOCS.write_text(page)
    assert DOCS.read_text() == page, "docs/models.md is out of date"


@pytest.mark.parametrize("mode", [{}, {"attention": "recompute"}, {"granularity": "frame"}], ids=str)
@pytest.mark.parametrize("name", ZOO)
def test_the_ledger_counts_what_is_computed(name: str, mode: dict[str, Any]) -> None:
    """All products, convolutions and attentions of a flush and of frames after it, heads and necks included."""
    model, state = eventful.wrap(build(name), policies.Random(0.2), **mode), None
    frames = clip(3, streams=2)
    model.layout(frames[0])
    for frame in frames:
        (_, state), counted = count_macs(model.step, frame, state)
        # Error norms, sums and exponentials are no products of matrices.
        told = sum(
            float(macs.sum()) for kind, macs in state.macs.by_operation.items() if kind not in ("gates", "merge")
        )
        if "SAM" in name or "ViTDet" in name:
            # Besides: the projection of one padding token. With one decision a frame, the ledger counts queries at
            # their share of all windows, padding included; what runs are a window's rows, filled up to the most.
            assert 0.99 * told <= counted <= 1.01 * told
        else:
            assert counted == told
