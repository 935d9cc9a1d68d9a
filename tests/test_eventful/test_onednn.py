"""Linear layers by oneDNN: the same numbers, only on packed rows, and counted like any other product."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import eventful
import policies
from eventful.linear import onednn
from eventful.linear.onednn import OneDnnLinear

pytestmark = pytest.mark.skipif(not onednn.available(), reason="this build of torch has no oneDNN")


@pytest.fixture(autouse=True)
def _one_thread_on_a_processor_with_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512_BF16")


class Products(TorchDispatchMode):
    """Counts the products by oneDNN."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.mkldnn._linear_pointwise.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("rows", [1, 7, 40])
@pytest.mark.parametrize("bias", [True, False])
def test_same_numbers_as_the_layer_itself(rows: int, bias: bool) -> None:
    layer, x = nn.Linear(24, 36, bias=bias), torch.randn(rows, 24)
    with torch.no_grad(), Products() as products:
        expected = layer(x)
        with OneDnnLinear():
            torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=0)
    assert products.count == 1


def test_packed_rows_have_few_sizes_and_the_numbers_of_their_own() -> None:
    layer, sizes = nn.Linear(24, 36), set()

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.mkldnn._linear_pointwise.default:
                sizes.add(args[0].shape[0])
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Sizes():
        for rows in range(1, 300, 9):
            x = torch.randn(rows, 24)
            with OneDnnLinear(packed=True):
                out = layer(x)
            assert out.shape == (rows, 36) and out.is_contiguous()
            torch.testing.assert_close(out, layer(x), atol=1e-5, rtol=0)
    assert sizes == {onednn.rounded(rows) for rows in range(1, 300, 9)}
    assert len({onednn.rounded(rows) for rows in range(1, 300)}) == 83
    assert all(0 <= onednn.rounded(rows) - rows <= rows / 16 for rows in range(10_000))


@pytest.mark.parametrize("x", [torch.randn(0, 24), torch.randn(3, 24).double(), torch.randn(3, 24).bfloat16()])
def test_what_does_not_suit_is_left_alone(x: torch.Tensor) -> None:
    layer = nn.Linear(24, 36).to(x.dtype)
    with torch.no_grad(), Products() as products, OneDnnLinear():
        assert layer(x).shape == (x.shape[0], 36)
        assert F.linear(x, weight=layer.weight).shape == (x.shape[0], 36)
    assert products.count == 0


@pytest.mark.parametrize("bias", [torch.randn(72)[::2], torch.randn(1).expand(36), torch.tensor(2.0)])
def test_a_bias_that_is_no_dense_vector_is_read_as_what_it_is(bias: torch.Tensor) -> None:
    weight, x = torch.randn(36, 24), torch.randn(5, 24)
    with torch.no_grad(), OneDnnLinear():
        torch.testing.assert_close(F.linear(x, weight, bias), x @ weight.T + bias, atol=1e-5, rtol=1e-5)


def test_autocast_is_followed() -> None:
    layer, x = nn.Linear(24, 36), torch.randn(37, 24)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        out = onednn.by_onednn(layer, packed=True)(x)
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out, layer(x))


@pytest.mark.parametrize(("shape", "by_onednn"), [((128, 24), True), ((129, 24), False), ((2, 65, 24), False)])
def test_without_avx512_only_few_rows_are_multiplied_by_it(
    shape: tuple[int, ...], by_onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x = nn.Linear(24, 36), torch.randn(shape)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with torch.no_grad(), Products() as products, OneDnnLinear(packed=True):
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
    assert products.count == 2 * by_onednn


def test_torch_counts_it() -> None:
    with torch.no_grad(), FlopCounterMode(display=False) as counter, OneDnnLinear():
        nn.Linear(24, 36)(torch.randn(5, 24))
    assert counter.get_total_flops() == 2 * 5 * 24 * 36


def test_a_model_uses_it_on_packed_and_on_all_rows() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2).eval()
    model, frames = eventful.wrap(vit, policies.TopR(5)), torch.randn(2, 1, 3, 64, 64)
    with torch.inference_mode():
        with Products() as flush:
            model(frames[0])
        with Products() as steady:
            model(frames[1])
    # qkv, projection and the two layers of the MLP, in two blocks.
    assert (flush.count, steady.count) == (8, 8)
