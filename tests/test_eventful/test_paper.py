"""The published attention update against its formula, and packed against masked execution."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import eventful
import policies
from eventful.attention.buffers import PaperTypes
from eventful.attention.full import FullAttention
from eventful.attention.paper import blend_paper, update_paper
from eventful.families import adapt
from eventful.frame_plan import make_plan
from eventful.gates import FrameRun, through_gates
from eventful.macs.ledger import MacLedger
from eventful.options import Options
from eventful.rows import AllRows, MaskedRows, PackedRows
from eventful.state import AttentionState, BlockState, StreamState

B, N, H, d = 2, 24, 3, 8


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def published(frames: list[tuple[Tensor, Tensor]], scale: float) -> Tensor:
    """The formula of section 3.2 by the letter, for one stream: (q, k, v) (3, N, H, d) and a mask (N,) per frame."""
    qkv, _ = frames[0]
    q, k, v = qkv.double().transpose(1, 2)
    weights = ((q @ k.transpose(1, 2)) * scale).softmax(-1)
    out = weights @ v
    for qkv, mask in frames[1:]:
        j = mask.nonzero().squeeze(1)
        new_q, new_k, new_v = qkv.double().transpose(1, 2)
        v_delta = new_v[:, j] - v[:, j]
        for buffer, new in ((q, new_q), (k, new_k), (v, new_v)):
            buffer[:, j] = new[:, j]
        new_weights = ((q @ k.transpose(1, 2)) * scale).softmax(-1)
        delta = new_weights[:, :, j] - weights[:, :, j]
        out = out + new_weights[:, :, j] @ v_delta + delta @ (v[:, j] - v_delta)
        weights[:, :, j] = new_weights[:, :, j]
    return out.transpose(0, 1)


def random_frames(count: int) -> list[tuple[Tensor, Tensor]]:
    """(q, k, v) of all tokens (3, B, N, H, d) and a mask (B, N) for each frame; the first mask is full."""
    frames = [(torch.randn(3, B, N, H, d), torch.rand(B, N) < 0.3) for _ in range(count)]
    frames[0][1][:] = True
    frames[3][1][0] = False
    frames[4][1][1] = True
    return frames


def test_update_is_the_published_formula() -> None:
    attention, state, frames = FullAttention(H, d, d**-0.5), AttentionState(), random_frames(40)
    for qkv, mask_BN in frames:
        rows = AllRows(B, N, in_place=True) if state.q_BNHd is None else PackedRows.from_mask(mask_BN)
        update_paper(attention, state, rows, tuple(rows.take(x) for x in qkv), MacLedger(B, 1.0))
    for b in range(B):
        expected = published([(qkv[:, b], mask_BN[b]) for qkv, mask_BN in frames], d**-0.5)
        torch.testing.assert_close(state.out_BNHd[b].double(), expected, atol=1e-5, rtol=1e-5)


# In half precision the last bit of the products can decide how an entry of a buffer is rounded.
@pytest.mark.parametrize(
    ("types", "atol"),
    [
        (PaperTypes(), 2e-5),
        (PaperTypes(stored=torch.bfloat16), 2e-2),
        (PaperTypes(stored=torch.float16), 2e-3),
        (PaperTypes(product=torch.float16), 2e-2),
    ],
)
def test_packed_equals_masked_over_many_frames(types: PaperTypes, atol: float) -> None:
    attention, packed, masked = FullAttention(H, d, d**-0.5), AttentionState(), AttentionState()
    for t, (qkv, mask_BN) in enumerate(random_frames(100)):
        every = AllRows(B, N, in_place=False)
        rows = AllRows(B, N, in_place=True) if t == 0 else PackedRows.from_mask(mask_BN)
        update_paper(attention, packed, rows, tuple(rows.take(x) for x in qkv), MacLedger(B, 1.0), types)
        out = blend_paper(attention, masked, every if t == 0 else MaskedRows(mask_BN), tuple(qkv), types)
        torch.testing.assert_close(packed.out_BNHd.to(out.dtype), out, atol=atol, rtol=0)
    assert packed.logits_BHNK.dtype == (types.stored or torch.float32)
    assert packed.weights_BHNK.dtype == (types.product or types.stored or torch.float32)
    assert packed.out_BNHd.dtype == (types.product or torch.float32)


def test_blend_carries_gradients_to_the_mask() -> None:
    attention, state = FullAttention(H, d, d**-0.5), AttentionState()
    blend_paper(attention, state, AllRows(B, N, in_place=False), tuple(torch.randn(3, B, N, H, d)))
    mask_BN = torch.full((B, N), 0.5, requires_grad=True)
    blend_paper(attention, state, MaskedRows(mask_BN), tuple(torch.randn(3, B, N, H, d))).square().sum().backward()
    assert mask_BN.grad is not None and (mask_BN.grad != 0).all()


def small_vit() -> nn.Module:
    """Two blocks, 6 x 8 patches and a class token."""
    return timm.create_model("vit_tiny_patch16_224", img_size=(96, 128), depth=2, num_classes=5).eval()


def stream(count: int) -> list[Tensor]:
    """Frames (2, 3, 96, 128) with a region that changes and noise everywhere."""
    frames = [torch.randn(2, 3, 96, 128)]
    for _ in range(count - 1):
        frame = frames[-1] + 0.02 * torch.randn(2, 3, 96, 128)
        frame[:, :, :32, :48] += torch.randn(2, 3, 32, 48)
        frames.append(frame)
    return frames


def random_masks(seed: int) -> Any:
    """Decides by coin tosses, which depend on the seed only; streams select different numbers of tokens."""
    generator = torch.Generator().manual_seed(seed)
    return lambda o: policies.Selection(mask_BN=torch.rand(o.input_BND.shape[:2], generator=generator) < 0.25)


OPTIONS = [
    {},
    {"gate_position": "before_norm"},
    {"reference": "previous"},
    {"gate_position": "before_norm", "reference": "previous", "buffer_dtype": torch.bfloat16},
    {"buffer_dtype": torch.float16},
    {"product_dtype": torch.float16},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_model_packed_equals_masked_also_when_they_alternate(options: dict[str, Any]) -> None:
    model = eventful.wrap(small_vit(), policies.All(), attention="paper", **options)
    atol = 2e-2 if {"buffer_dtype", "product_dtype"} & options.keys() else 1e-4
    states, outs = [None] * 3, [None] * 3
    decide = [random_masks(1) for _ in range(3)]
    with torch.no_grad():
        for t, frame in enumerate(stream(12)):
            for i, masked in enumerate((False, True, t % 3 == 1)):
                decisions = model.decisions(frame, states[i], masked)
                outs[i], states[i] = eventful.drive(decisions, decide[i])
            torch.testing.assert_close(outs[0], outs[1], atol=atol, rtol=0)
            torch.testing.assert_close(outs[0], outs[2], atol=atol, rtol=0)


def test_exact_goes_on_after_masked_frames() -> None:
    model = eventful.wrap(small_vit(), policies.All())
    states, decide = [None, None], [random_masks(1), random_masks(1)]
    with torch.no_grad():
        for t, frame in enumerate(stream(8)):
            a, states[0] = eventful.drive(model.decisions(frame, states[0], False), decide[0])
            b, states[1] = eventful.drive(model.decisions(frame, states[1], t % 3 == 1), decide[1])
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", OPTIONS[:3])
def test_select_all_is_the_dense_model(options: dict[str, Any]) -> None:
    vit = small_vit()
    model = eventful.wrap(vit, policies.All(), attention="paper", **options)
    with torch.inference_mode():
        for frame in stream(3):
            torch.testing.assert_close(model(frame), vit(frame), atol=1e-4, rtol=0)


def test_a_reset_stream_is_flushed_beside_one_that_goes_on() -> None:
    vit, frames = small_vit(), stream(4)
    model = eventful.wrap(vit, policies.TopR(5), attention="paper")
    with torch.inference_mode():
        for frame in frames[:3]:
            model(frame)
        model.reset(streams=[1])
        out = model(frames[3])
        torch.testing.assert_close(out[1], vit(frames[3])[1], atol=1e-4, rtol=0)
        assert (out[0] - vit(frames[3])[0]).abs().max() > 1e-3


def test_buffer_dtype_is_refused_where_there_is_no_such_buffer() -> None:
    with pytest.raises(ValueError, match='only attention="paper"'):
        Options(attention="exact", buffer_dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r'product_dtype .* only attention="paper"'):
        Options(attention="recompute", product_dtype=torch.float16)
    with pytest.raises(ValueError, match="float32, bfloat16 or float16"):
        Options(attention="paper", buffer_dtype=torch.int8)
    with pytest.raises(ValueError, match="exact, paper, recompute"):
        Options(attention="papre")  # type: ignore[arg-type]


def state_bytes(options: Options, size: int) -> int:
    """Bytes of the state of a ViT-B after a flush; on the meta device, which computes shapes only."""
    with torch.device("meta"):
        backbone = adapt(timm.create_model("vit_base_patch16_224", img_size=size))
        frame, flush_B = torch.empty(1, 3, size, size), torch.ones(1, dtype=torch.bool)
    plan = make_plan(backbone, options, frame)
    state = StreamState([BlockState() for _ in plan.blocks], flush_B, (size, size))
    run = FrameRun(plan, options, state, flush=True, masked=False)
    with torch.no_grad(), pytest.raises(StopIteration):
        next(through_gates(run, plan.blocks, backbone.embed(frame)))
    return state.nbytes()


def test_exact_state_is_ten_times_smaller_at_1024_pixels() -> None:
    exact, paper = (state_bytes(Options(attention=mode), 1024) for mode in ("exact", "paper"))
    assert paper > 10 * exact
    half = state_bytes(Options(attention="paper", buffer_dtype=torch.bfloat16), 1024)
    assert half < 0.6 * paper
